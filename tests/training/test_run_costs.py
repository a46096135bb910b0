import pytest

from atkd_jax.models.flops import distillation_flops
from atkd_jax.training import run_costs as module
from atkd_jax.training.peaks import Peak
from atkd_jax.training.run_costs import run_costs


def costs_of(prepared, monkeypatch, peak, **changes):
    monkeypatch.setattr(module, "peak_of", lambda devices: peak)
    models, _, (config, meshes) = prepared(**changes)
    said = []
    return run_costs(config, meshes, models, report=said.append), models, said


def test_the_teachers_pass_is_measured_and_the_rest_is_counted(prepared, monkeypatch):
    found, models, said = costs_of(prepared, monkeypatch, Peak(2e12, "a data sheet"))
    assert said == ["MFU is the share of 2 TFLOP/s: a data sheet."]
    assert 0 < found.teacher_seconds < 10
    own = {"student": models.student_config, "teacher": models.teacher_config, "length": 64}
    assert found.flops_per_token == distillation_flops(**own, tokens=1, counted_tokens=0)
    assert found.flops_per_counted_token == distillation_flops(**own, tokens=0, counted_tokens=1)
    assert found.peak_flops_per_second == 2e12


def test_without_a_peak_there_is_no_mfu_and_tokens_that_teach_have_no_layers(prepared, monkeypatch):
    objective = {"name": "forward_kl", "token_similarity": {"scale": 4.0, "delta": 0.1}}
    found, models, said = costs_of(prepared, monkeypatch, Peak(None, "nobody knows it"), objective=objective)
    assert said == ["MFU is not told: nobody knows it."]
    assert found.peak_flops_per_second is None
    own = {"student": models.student_config, "length": 64}
    assert found.flops_per_token == pytest.approx(distillation_flops(**own, teacher=None, tokens=1, counted_tokens=0))
    head = {"teacher": models.teacher_config, "runs_teacher_layers": False, "tokens": 0, "counted_tokens": 1}
    assert found.flops_per_counted_token == distillation_flops(**own, **head)


def test_a_teacher_that_the_loss_does_not_ask_costs_nothing(prepared, monkeypatch):
    found, models, _ = costs_of(prepared, monkeypatch, Peak(2e12, "a data sheet"), objective={"name": "cross_entropy"})
    assert found.teacher_seconds == 0
    own = {"student": models.student_config, "teacher": None, "length": 64}
    assert found.flops_per_token == distillation_flops(**own, tokens=1, counted_tokens=0)
    assert found.flops_per_counted_token == distillation_flops(**own, tokens=0, counted_tokens=1)
