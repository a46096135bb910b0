import json
import math

import pytest

from atkd_jax.commands import evaluate
from atkd_jax.commands.main import main


def test_a_trained_run_is_measured_before_and_after(trained, trained_words, capsys):
    assert main(["evaluate", *trained_words]) == 0
    out = capsys.readouterr().out
    measures = ("perplexity", "forward KL", "reverse KL", "agreement", "calibration error", "UNC from")
    for words in ("teacher", "student before", "student after", *measures, "evaluating:"):
        assert words in out
    kept = json.loads((trained.run_dir / "evaluation.json").read_text())
    assert list(kept["models"]) == ["teacher", "student before", "student after"]
    assert kept["models"]["teacher"]["forward_kl"] == 0
    assert kept["models"]["student after"]["forward_kl"] != kept["models"]["student before"]["forward_kl"]
    assert math.isclose(
        kept["models"]["teacher"]["perplexity"], math.exp(kept["models"]["teacher"]["cross_entropy"]), rel_tol=1e-9
    )
    assert (kept["checkpoint_step"], kept["examples"], kept["split"]) == (3, 12, "train")
    assert len(kept["unc_deciles"]) == 10
    assert {decile["tokens"] for decile in kept["unc_deciles"]} == {kept["counted_tokens"] / 10}
    (sample,) = kept["samples"]
    assert sample["prompt"] == "Add 0 to x."
    assert list(sample["answers"]) == ["teacher", "student before", "student after"]


def test_what_has_not_begun_is_measured_without_the_run(untrained, untrained_words, capsys):
    assert main(["evaluate", *untrained_words, "--no-run", "--evaluation.max_examples", "2"]) == 0
    assert "student after" not in capsys.readouterr().out
    kept = json.loads((untrained.run_dir / "evaluation.json").read_text())
    assert (kept["examples"], kept["checkpoint_step"]) == (2, None)


def test_runs_that_share_their_start_leave_it_out_and_answers_are_scored(trained, trained_words, capsys):
    words = ["--after_only", "--evaluation.rouge_examples", "3", "--evaluation.samples", "0"]
    assert main(["evaluate", *trained_words, *words]) == 0
    assert "ROUGE-L" in capsys.readouterr().out
    models = json.loads((trained.run_dir / "evaluation.json").read_text())["models"]
    assert list(models) == ["teacher", "student after"]
    assert "rouge_l" not in models["teacher"]
    assert 0 <= models["student after"]["rouge_l"] <= 100


def test_examples_that_do_not_fit_are_counted(untrained, untrained_words, capsys):
    words = ["--no-run", "--evaluation.samples", "0", "--data.sequence_length", "36", "--data.overlong", "truncate"]
    assert main(["evaluate", *untrained_words, *words]) == 0
    kept = json.loads((untrained.run_dir / "evaluation.json").read_text())
    assert kept["truncated_examples"] == 12
    assert "12 examples lost their end and 0 were left out: data.overlong" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "holds no checkpoint; train first, or name another run_dir"),
        (["--no-run", "--evaluation.split", "test"], "'test'"),
        (["--no-run", "--teacher.model", "/absent"], "/absent"),
    ],
)
def test_what_is_missing_is_one_sentence(words, sentence, untrained_words, capsys):
    assert main(["evaluate", *untrained_words, *words]) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert err.count("\n") == 1


def test_the_yardstick_is_the_float_teacher_however_it_was_stored(untrained, untrained_words):
    words = ["evaluate", *untrained_words, "--no-run", "--evaluation.max_examples", "2", "--evaluation.samples", "0"]
    found = []
    for more in ([], ["--teacher.quantize", "int8"]):
        assert main([*words, *more]) == 0
        found.append(json.loads((untrained.run_dir / "evaluation.json").read_text())["models"])
    assert found[0] == found[1]


@pytest.mark.parametrize("page", [None, "old"])
def test_a_scorers_page_is_brought_up_to_date_where_there_is_one(page, tmp_path, monkeypatch):
    def measured(config, *, console):
        scores = {"accuracy": 0.5, "macro_f1": 0.4, "kappa": 0.3, "parameters": 7, "milliseconds": 1.0}
        kept = {"source": "a.jsonl", "split": "test", "answers": 4, "student": scores}
        (tmp_path / "scores.json").write_text(json.dumps(kept))

    monkeypatch.setattr(evaluate, "evaluate_scorers", measured)
    if page is not None:
        (tmp_path / "report.html").write_text(page)
    assert main(["evaluate", "--answers.source", "a.jsonl", "--run_dir", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").exists() == (page is not None)
    if page is not None:
        assert "50.0%" in (tmp_path / "report.html").read_text()
