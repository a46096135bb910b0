import json
import math

import pytest

from atkd_jax.commands.plan_summary import advice, summary_of
from atkd_jax.config import Config
from atkd_jax.interop import PUBLISHED
from atkd_jax.models.flops import distillation_flops
from atkd_jax.sharding.chips import CHIPS
from atkd_jax.sharding.collectives import Traffic
from atkd_jax.sharding.compiled_cost import StepCost
from atkd_jax.training.ahead_of_time import Ahead, Held, Memory, Shapes

GIB = 2.0**30
TEACHER, STUDENT = (PUBLISHED[name].shape for name in ("facebook/opt-6.7b", "facebook/opt-125m"))
SHAPES = Shapes(TEACHER, STUDENT, 50265)
CHIP = CHIPS["v5e"]
COST = StepCost(1e14, 1e12, 1.5, 1.0, [Traffic("all-gather", "fsdp", 3, 1e9, 0.5, False, (4096, 50265))])


def config_of(**changes):
    tree = {"mesh": {"fsdp": 4}, "data": {"sequence_length": 1024}, "training": {"batch_size": 64}}
    return Config.model_validate(tree | changes)


def planned(config, ahead):
    return summary_of(config, shapes=SHAPES, chip=CHIP, topology="v5e:4x4", ahead=ahead)


def test_speed_follows_from_the_step():
    memory = Memory(arguments=4 * GIB, temporaries=8 * GIB, activations=2 * GIB, code=GIB)
    ahead = Ahead(Held(GIB, GIB, 2 * GIB, 0.0), memory, COST, "", memory.total, 60.0)
    plan = planned(config_of(), ahead)
    assert plan["fits"]
    assert plan["advice"] == []
    assert plan["mesh"] == {"data": 4, "fsdp": 4, "tensor": 1, "sequence": 1}
    assert plan["step_seconds"] == 2.0
    tokens = 64 * 1024
    assert plan["tokens_per_second"] == tokens / 2.0
    similar = config_of(objective={"name": "forward_kl", "token_similarity": {"scale": 4.0}})
    models = {"student": STUDENT, "teacher": TEACHER, "length": 1024, "tokens": tokens, "counted_tokens": tokens}
    without_layers = distillation_flops(**models, runs_teacher_layers=False)
    assert planned(similar, ahead)["mfu"] == pytest.approx(without_layers / (2.0 * 16 * 197e12))
    needed = distillation_flops(student=STUDENT, teacher=TEACHER, length=1024, tokens=tokens, counted_tokens=tokens)
    assert plan["mfu"] == pytest.approx(needed / (2.0 * 16 * 197e12))
    assert json.loads(json.dumps(plan)) == json.loads(json.dumps(plan))


def test_what_does_not_fit_is_told_with_what_to_change():
    ahead = Ahead(Held(4 * GIB, 3 * GIB, 6 * GIB, 0.0), None, None, "", 20 * GIB, 60.0)
    plan = planned(config_of(), ahead)
    assert not plan["fits"]
    assert plan["needed_bytes"] == 20 * GIB
    assert [line.partition(":")[0].partition(" and")[0] for line in plan["advice"]] == [
        "mesh.fsdp=8",
        "mesh.teacher_fsdp=16",
        "training.dtype=bfloat16",
        "training.remat=full",
        "training.microbatches=2",
        "training.chunk_tokens=256",
        "mesh.tensor=2",
    ]
    assert "take 9.0 GiB of a chip" in plan["advice"][0]
    assert json.dumps(planned(config_of(), ahead._replace(needed_bytes=math.inf)))


@pytest.mark.parametrize(
    ("mesh", "advised"),
    [
        ({"tensor": 2}, ["mesh.teacher_fsdp=8"]),
        ({"tensor": 2, "sequence": 2}, []),
        ({"sequence": 2, "teacher_fsdp": 2}, ["mesh.teacher_fsdp=8"]),
        ({"tensor": 4, "teacher_tensor": 1}, ["mesh.teacher_fsdp=16"]),
        ({"teacher_tensor": 4}, []),
    ],
)
def test_the_advised_mesh_of_the_teacher_exists(mesh, advised):
    ahead = Ahead(Held(4 * GIB, 0.1 * GIB, 0.2 * GIB, 0.0), None, None, "", 20 * GIB, 60.0)
    lines = planned(config_of(mesh={"fsdp": 4, **mesh}), ahead)["advice"]
    assert [line.partition(":")[0] for line in lines if "teacher_fsdp" in line] == advised


def test_advice_is_only_what_helps():
    small = {"fits": False, "chips": 16, "mesh": {"data": 1, "fsdp": 16, "tensor": 1, "sequence": 1}}
    small["held"] = Held(0.1 * GIB, 0.1 * GIB, 0.2 * GIB, 0.0)._asdict()
    half = {"dtype": "bfloat16", "remat": "full", "batch_size": 16, "chunk_tokens": 256}
    config = config_of(mesh={"fsdp": 16}, training=half, teacher={"dtype": "bfloat16"}, data={"sequence_length": 16384})
    found = advice(config, small, chip=CHIP, shapes=SHAPES)
    assert [line.partition(":")[0] for line in found] == ["mesh.tensor=2", "mesh.sequence=2"]
