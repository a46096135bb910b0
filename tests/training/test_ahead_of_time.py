import dataclasses
import importlib.util
import math
import re

import jax
import pytest
from flax import nnx

from atkd_jax.config import Config
from atkd_jax.models import Decoder, DecoderConfig
from atkd_jax.sharding import make_meshes
from atkd_jax.sharding.chips import CHIPS, topology_devices
from atkd_jax.sharding.collectives import collectives_of
from atkd_jax.sharding.compiled_text import parse_program, runs
from atkd_jax.training import ahead_of_time
from atkd_jax.training.ahead_of_time import Shapes, compile_ahead, held_by

VOCAB = 512
SHAPE = {"vocab_size": VOCAB, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "mlp_width": 96}
SHAPES = Shapes(
    teacher=DecoderConfig(width=64, num_layers=3, **SHAPE),
    student=DecoderConfig(width=32, num_layers=2, **SHAPE),
    vocab_size=VOCAB,
)
ROWS, LENGTH = 16, 64


def config_of(**training):
    tree = {"mesh": {"fsdp": 4, "tensor": 2}, "data": {"sequence_length": LENGTH}}
    return Config.model_validate(tree | {"training": {"batch_size": ROWS, "microbatches": 2} | training})


def parameters_of(shape):
    model = nnx.eval_shape(lambda: Decoder(shape, rngs=nnx.Rngs(0)))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model)))


def moved_shapes(ahead, num_devices):
    """Of each array of each collective in the compiled text, its kind and dimensions."""
    program = parse_program(ahead.text)
    return {
        (each.kind, shape)
        for run in runs(program, turns=lambda loop: 1)
        for each in collectives_of(program, run, num_devices)
        for shape in each.shapes
    }


@pytest.fixture(scope="module")
def ahead():
    return compile_ahead(config_of(), shapes=SHAPES, chip=CHIPS["v5e"], devices=jax.devices())


def test_the_step_that_is_compiled_holds_what_it_is_said_to_hold(ahead):
    assert ahead.memory.arguments == pytest.approx(sum(ahead.held), rel=0.01)
    assert ahead.memory.total == ahead.needed_bytes
    # Norm scales lie whole everywhere; all else is split over the eight devices.
    student = 4 * parameters_of(SHAPES.student)
    assert student / 8 <= ahead.held.student < 1.1 * student / 8
    assert ahead.held.optimizer == pytest.approx(2 * ahead.held.student, rel=0.01)


def test_activations_are_those_of_the_students_layers(ahead):
    # Of every token on this device at least the residual stream is kept, float32, in each layer.
    tokens = ROWS * LENGTH // 2 // 4
    stream = SHAPES.student.num_layers * tokens * SHAPES.student.width * 4
    full = compile_ahead(config_of(remat="full"), shapes=SHAPES, chip=CHIPS["v5e"], devices=jax.devices())
    assert stream <= full.memory.activations < 1.5 * stream
    assert ahead.memory.activations > 3 * full.memory.activations


def test_arithmetic_is_that_of_both_models(ahead):
    tokens = ROWS * LENGTH // 8
    teacher, student = (parameters_of(shape) - VOCAB * shape.width for shape in (SHAPES.teacher, SHAPES.student))
    # Heads are products too: the teacher's twice, for the gate and for the loss. Attention comes on top.
    least = 2 * tokens * (teacher + VOCAB * SHAPES.teacher.width) + 6 * tokens * student
    assert least < ahead.cost.flops < 1.5 * least
    assert any(each.axes == "tensor" for each in ahead.cost.collectives)


@pytest.mark.parametrize(
    ("objective", "rollout"),
    [
        ({"name": "minillm_lmops", "adaptive": True}, {"author": "mixed", "fraction": 0.5}),
        pytest.param({"name": "generalized_jsd", "adaptive": True}, {"author": "student"}, marks=pytest.mark.slow),
    ],
)
def test_a_step_from_rollouts_never_has_the_logits_of_all_its_tokens(objective, rollout):
    """Neither model's, forward or back: no array of the program has half as many numbers."""
    vocabulary, rows, length = 4096, 64, 64
    shapes = [dataclasses.replace(shape, vocab_size=vocabulary) for shape in (SHAPES.teacher, SHAPES.student)]
    tree = {
        "objective": objective,
        "rollout": rollout,
        "data": {"sequence_length": length, "packing": False},
        "training": {"batch_size": rows, "chunk_tokens": 256},
    }
    whole = compile_ahead(
        Config.model_validate(tree),
        shapes=Shapes(*shapes, vocab_size=vocabulary),
        chip=CHIPS["v5e"],
        devices=jax.devices()[:1],
    )
    sizes = {math.prod(map(int, dims.split(","))) for dims in re.findall(r"\w+\[([\d,]+)\]", whole.text)}
    assert 256 * vocabulary in sizes
    assert max(sizes) < rows * length * vocabulary / 2


def test_all_arrays_that_are_moved_are_seen(ahead):
    shapes = moved_shapes(ahead, 8)
    assert {(each.kind, each.largest) for each in ahead.cost.collectives} <= shapes
    assert len(shapes) > len(ahead.cost.collectives) > 0
    assert len({shape for kind, shape in shapes if kind == "all-gather"}) > 1


def test_what_is_held_needs_no_compiler():
    config = config_of()
    held = held_by(config, shapes=SHAPES, meshes=make_meshes(fsdp=4, tensor=2))
    spread = held_by(config, shapes=SHAPES, meshes=make_meshes(fsdp=4, tensor=2, teacher_fsdp=8, teacher_tensor=1))
    assert spread.student == held.student
    assert spread.teacher == pytest.approx(held.teacher, rel=0.1)


@pytest.mark.parametrize(
    ("message", "needed"),
    [
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm.", 20.5 * 2**30),
        ("RESOURCE_EXHAUSTED: the total memory required for HLO temporaries (41.00G) exceeds available", 41 * 2**30),
        ("RESOURCE_EXHAUSTED: no numbers", math.inf),
        ("INTERNAL: something else", None),
    ],
)
def test_the_compilers_complaint_is_an_answer(message, needed):
    assert ahead_of_time._needed_bytes(message) == needed


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the extra tpu-plan")
def test_a_tpus_step_moves_no_logits():
    """The columns of a head on one of two chips are 512, its rows no more than the models are wide."""
    shapes = SHAPES._replace(
        teacher=DecoderConfig(**SHAPE | {"vocab_size": 1024}, width=64, num_layers=3),
        student=DecoderConfig(**SHAPE | {"vocab_size": 1024}, width=32, num_layers=2),
        vocab_size=1024,
    )
    config = Config.model_validate(
        {
            "mesh": {"fsdp": 4, "tensor": 2},
            "data": {"sequence_length": 256},
            "training": {"batch_size": 16, "dtype": "bfloat16", "chunk_tokens": 128},
            "teacher": {"dtype": "bfloat16"},
        }
    )
    ahead = compile_ahead(config, shapes=shapes, chip=CHIPS["v5e"], devices=topology_devices("v5e:4x4"))
    assert ahead.memory is not None
    shapes = moved_shapes(ahead, 16)
    assert {(each.kind, each.largest) for each in ahead.cost.collectives} <= shapes
    assert len(shapes) > len(ahead.cost.collectives) > 0
    for kind, shape in shapes:
        assert not {512, 1024} & {*shape} or math.prod(shape) <= 1024 * 64, (kind, shape)


def test_a_teacher_whose_layers_never_run_holds_its_embeddings():
    objective = {"name": "forward_kl", "token_similarity": {"scale": 4.0}}
    config = Config.model_validate(config_of().model_dump() | {"objective": objective})
    meshes = make_meshes(fsdp=4, tensor=2)
    held = held_by(config, shapes=SHAPES, meshes=meshes)
    assert held.teacher == 4 * VOCAB * SHAPES.teacher.width / 8
    assert held.student == held_by(config_of(), shapes=SHAPES, meshes=meshes).student
