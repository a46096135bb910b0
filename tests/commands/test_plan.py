import importlib.util
import io
import json
import types

import jax
import pytest

from atkd_jax.commands import plan
from atkd_jax.commands.main import main
from atkd_jax.commands.verbs import PlanOptions
from atkd_jax.config import Config
from atkd_jax.config_file import load_config
from atkd_jax.errors import InputError
from atkd_jax.interop import PUBLISHED, read_config


def test_shapes_are_known_by_name_by_directory_and_by_size(tiny_teacher_directory, tmp_path):
    def shapes(teacher, **student):
        tree = {"cache_dir": str(tmp_path), "teacher": {"model": teacher}, "student": student}
        return plan.model_shapes(Config.model_validate(tree))

    found = shapes("facebook/opt-6.7b", init="directory", directory="facebook/opt-125m")
    assert (found.teacher.num_layers, found.student.num_layers, found.vocab_size) == (32, 12, 50265)
    own = read_config(tiny_teacher_directory)
    found = shapes(str(tiny_teacher_directory), init="prune", keep_layers=[0, 3])
    assert (found.teacher, found.student.num_layers, found.vocab_size) == (own, 2, 300)
    assert shapes("Qwen/Qwen3-8B", init="scratch", size="30m").student.vocab_size == 151936
    with pytest.raises(InputError, match=r"plan: org/other must be a directory with a config.json, a model"):
        shapes("org/other", init="prune", layers=1)


@pytest.fixture
def on_this_machine(monkeypatch):
    """This machine's devices stand in for the topology's, and its compiler for the TPU's."""
    monkeypatch.setattr(plan, "topology_devices", lambda name: jax.devices())
    settings = []
    # They would outlast the test.
    monkeypatch.setattr(plan.jax, "config", types.SimpleNamespace(update=lambda *each: settings.append(each)))
    return settings


def test_a_plan_is_printed_as_json(on_this_machine, untrained_words, capsys):
    assert main(["plan", *untrained_words, "--topology", "v5e:2x4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["chips"], found["mesh"]["data"], found["fits"]) == (8, 8, True)
    assert found["tokens_per_second"] > 0
    assert {each["axes"] for each in found["collectives"]} == {"data"}
    assert ("jax_platforms", "cpu") in on_this_machine


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--topology", "v5e"], "topology must be a kind of TPU among v5e, v5p, v6e"),
        (["--topology", "v5e:2x4", "--training.batch_size", "4"], "training.batch_size=4 must be a multiple of 8"),
        (["--topology", "v5e:2x4", "--mesh.fsdp", "3"], "mesh.fsdp=3 times mesh.tensor=1 must divide the number of"),
    ],
)
def test_what_is_wrong_is_one_sentence(on_this_machine, untrained_words, capsys, words, sentence):
    assert main(["plan", *untrained_words, *words]) == 2
    assert capsys.readouterr().err.startswith(sentence)


def test_the_shipped_configs_name_known_models(request):
    folder = request.config.rootpath / "configs" / "pods"
    files = sorted(folder.glob("*.yaml"))
    assert len(files) == 6
    for file in files:
        config = load_config(file)
        shapes = plan.model_shapes(config)
        assert {config.teacher.model, str(config.student.directory)} <= PUBLISHED.keys()
        assert shapes.student.width < shapes.teacher.width
        assert len(file.read_text().splitlines()) <= 40


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the extra tpu-plan")
def test_the_tpus_compiler_plans_a_tiny_run(untrained, tmp_path):
    config = untrained.model_copy(update={"training": untrained.training.model_copy(update={"batch_size": 16})})
    chip, devices = plan.parse_topology("v5e:4x4")[0], plan.topology_devices("v5e:4x4")
    ahead = plan.compile_ahead(config, shapes=plan.model_shapes(config), chip=chip, devices=devices)
    assert ahead.memory.total < chip.hbm_bytes
    assert io.StringIO(ahead.text).readline().startswith("HloModule")
    assert PlanOptions().topology == "v5e:4x4"
