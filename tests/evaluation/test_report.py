import io
import json
import math

from rich.console import Console

from atkd_jax.evaluation.report import Report, Scores, render_table

REPORT = Report(
    12_345,
    {
        "teacher": Scores(2.9, 0.0, 0.0, 1.0),
        "student before": Scores(15.0, 11.0, 12.0, 0.01),
        "student after": Scores(math.log(182.5), 2.25, 3.125, 0.345, 17.5),
    },
)


def rendered(report):
    stream = io.StringIO()
    Console(file=stream, width=100).print(render_table(report, title="pairs"))
    return stream.getvalue()


def test_the_table_shows_every_model_and_measure():
    lines = rendered(REPORT).splitlines()
    (perplexity,) = [line for line in lines if "perplexity" in line]
    assert [cell.strip() for cell in perplexity.strip("│").split("│")] == ["perplexity", "18.17", "3,269,017", "182.50"]
    assert any("forward KL" in line and "2.2500" in line for line in lines)
    assert any("reverse KL" in line and "3.1250" in line for line in lines)
    (rouge,) = [line for line in lines if "ROUGE-L" in line]
    assert [cell.strip() for cell in rouge.strip("│").split("│")] == ["ROUGE-L", "", "", "17.50"]
    assert any("agreement" in line and "34.5%" in line for line in lines)
    assert "over 12,345 response tokens" in rendered(REPORT)


def test_json_holds_the_same_numbers():
    kept = json.loads(json.dumps(REPORT.to_json(), allow_nan=False))
    assert kept["counted_tokens"] == 12_345
    assert list(kept["models"]) == ["teacher", "student before", "student after"]
    assert kept["models"]["student after"]["forward_kl"] == 2.25
    assert kept["models"]["student after"]["reverse_kl"] == 3.125
    assert (kept["models"]["student after"]["rouge_l"], "rouge_l" in kept["models"]["teacher"]) == (17.5, False)
    assert math.isclose(kept["models"]["student after"]["perplexity"], 182.5)


def test_a_diverged_student_is_still_reported():
    report = Report(1, {"teacher": Scores(1e4, math.nan, math.inf, 0.0)})
    assert report.scores["teacher"].perplexity == math.inf
    scores = report.to_json()["models"]["teacher"]
    assert [scores[name] for name in ("perplexity", "forward_kl", "reverse_kl")] == [None] * 3
    assert "nan" in rendered(report)
