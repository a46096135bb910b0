import io
import json
import re
import subprocess
import sys
import types
from pathlib import Path

import jax
import pytest
from rich.console import Console

from atkd_jax.commands import plan_search
from atkd_jax.commands.verbs import PlanOptions
from atkd_jax.config import Config
from atkd_jax.config_file import load_config
from atkd_jax.errors import InputError
from atkd_jax.models import DecoderConfig
from atkd_jax.sharding.chips import CHIPS
from atkd_jax.training.ahead_of_time import Shapes

SHAPE = DecoderConfig(vocab_size=64, width=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, mlp_width=64)
SHAPES = Shapes(SHAPE, SHAPE, 64)
CONFIG = Config.model_validate({"training": {"batch_size": 16, "microbatches": 2}, "data": {"sequence_length": 16}})


def options(**changes):
    return PlanOptions(settings=CONFIG, topology="v5e:2x4", search=True, **changes)


def searched(monkeypatch, run, *, options=options(), shapes=SHAPES):  # noqa: B008 (it cannot change)
    """The ranking, and the text, where `run` stands in for the processes that compile."""
    monkeypatch.setattr(plan_search.subprocess, "run", run)
    stream = io.StringIO()
    console = Console(file=stream, width=200)
    found = plan_search.search(options, shapes=shapes, chip=CHIPS["v5e"], devices=jax.devices(), console=console)
    return found, stream.getvalue()


def compiler(words, **_):
    """Takes longer the more tensor parallelism, refuses fsdp 4, dies of fsdp 2 and full remat, hangs at tensor 8."""
    config = load_config(Path(words[words.index("--config") + 1]))
    mesh, training = config.mesh, config.training
    if mesh.tensor == 8:
        raise subprocess.TimeoutExpired(words, 9)
    if mesh.fsdp == 2 or training.remat == "full":
        return types.SimpleNamespace(returncode=-6, stdout="", stderr="Check failed\n")
    seconds = 1.0 + mesh.tensor + (0.5 if mesh.fsdp == 1 else 0) + training.microbatches / 10
    found = {"fits": mesh.fsdp != 4, "needed_bytes": 2.0**30, "hbm_bytes": 2.0**34, "step_seconds": seconds}
    text = json.dumps(found | {"mfu": 0.4, "tokens_per_second": 1000.0})
    return types.SimpleNamespace(returncode=0, stdout=text + "\n", stderr="")


def test_candidates_are_ranked_and_none_of_them_ends_the_search(monkeypatch):
    found, text = searched(monkeypatch, compiler, options=options(candidates=30))
    best = found[0].config
    assert (best.mesh.fsdp, best.mesh.tensor, best.training.microbatches) == (8, 1, 1)
    seconds = [each.seconds for each in found]
    assert seconds == sorted(seconds)
    assert seconds[-1] == float("inf")
    for words in ("does not fit", "the compiler ended with code -6: Check failed", "not compiled within 900 s"):
        assert words in text
    assert re.search(r"^1 of at most 30, \d+ s: data alone, remat none, 2 micro-batches", text)
    assert len({str(each.config) for each in found}) == len(found)


def test_no_more_are_compiled_than_were_asked_for(monkeypatch):
    found, _ = searched(monkeypatch, compiler, options=options(candidates=3))
    assert len(found) == 3


def test_half_of_few_candidates_are_other_settings_of_the_best_mesh(monkeypatch):
    found, _ = searched(monkeypatch, compiler, options=options(candidates=6))
    tried = [(each.config.mesh.fsdp, each.config.training.remat, each.config.training.microbatches) for each in found]
    assert len(tried) == 6
    assert {(fsdp, *rest) for fsdp, *rest in tried if rest == ["none", 2]} == {
        (1, "none", 2),
        (2, "none", 2),
        (4, "none", 2),
    }
    assert {each for each in tried if each[1:] != ("none", 2)} == {(1, "dots", 2), (1, "full", 2), (1, "none", 1)}


def test_a_teachers_own_mesh_is_varied_and_no_other():
    tree = CONFIG.model_dump()
    tree["mesh"]["teacher_fsdp"] = 4
    variants = list(plan_search.variants_of([Config.model_validate(tree)]))
    assert {each.mesh.teacher_fsdp for each in variants} == {1, 2, 4, 8, 16}
    assert len({str(each) for each in variants}) == len(variants) == 5 * 4 * 3 - 1
    assert {each.mesh.teacher_fsdp for each in plan_search.variants_of([CONFIG])} == {None}


def test_where_no_mesh_fits_the_one_that_needs_least_is_varied(monkeypatch):
    def too_large(words, **_):
        config = load_config(Path(words[words.index("--config") + 1]))
        found = {"fits": False, "needed_bytes": 2.0**40 / config.mesh.fsdp, "hbm_bytes": 2.0**34}
        return types.SimpleNamespace(returncode=0, stdout=json.dumps(found) + "\n", stderr="")

    found, _ = searched(monkeypatch, too_large, options=options(candidates=8))
    assert found[0].config.mesh.fsdp == 8
    assert {each.config.training.remat for each in found if each.config.mesh.fsdp == 8} == {"none", "dots", "full"}


def test_json_goes_to_the_output_alone(monkeypatch, capsys):
    searched(monkeypatch, compiler, options=options(candidates=2, json=True))
    assert len(json.loads(capsys.readouterr().out)) == 2


def test_what_cannot_be_held_is_not_compiled(monkeypatch):
    huge = SHAPES._replace(student=DecoderConfig(**vars(SHAPE) | {"mlp_width": 10**9}))
    with pytest.raises(InputError, match=r"on no mesh of this topology can the batch be split and the weights be held"):
        searched(monkeypatch, compiler, shapes=huge)


def test_a_candidate_is_the_verb_itself(monkeypatch):
    asked = []

    def run(words, **rest):
        asked.append((words, rest))
        return compiler(words)

    searched(monkeypatch, run, options=options(candidates=1, limit_seconds=77))
    ((words, rest),) = asked
    assert words[:5] == [sys.executable, "-m", "atkd_jax.commands", "plan", "--config"]
    assert words[-2:] == ["--topology", "v5e:2x4"]
    assert rest["timeout"] == 77
