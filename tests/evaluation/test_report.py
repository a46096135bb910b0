import io
import json
import math

from rich.console import Console

from atkd_jax.evaluation.report import Decile, Report, Scores, render_deciles, render_table

REPORT = Report(
    12_345,
    {
        "teacher": Scores(2.9, 0.0, 0.0, 1.0, 0.5, 0.02),
        "student before": Scores(15.0, 11.0, 12.0, 0.01, 0.0, 0.9),
        "student after": Scores(math.log(182.5), 2.25, 3.125, 0.345, 0.25, 0.0625, 17.5),
    },
    tuple(
        Decile(1234.5, number / 10, (number + 1) / 10, 0.05, {"teacher": Scores(number, 0.0, 0.0, 1.0, 0.5, 0.125)})
        for number in range(10)
    ),
)


def printed(table):
    stream = io.StringIO()
    Console(file=stream, width=100).print(table)
    return stream.getvalue()


def rendered(report):
    return printed(render_table(report, title="pairs"))


def test_the_table_shows_every_model_and_measure():
    lines = rendered(REPORT).splitlines()
    (perplexity,) = [line for line in lines if "perplexity" in line]
    assert [cell.strip() for cell in perplexity.strip("│").split("│")] == ["perplexity", "18.17", "3,269,017", "182.50"]
    assert any("forward KL" in line and "2.2500" in line for line in lines)
    assert any("reverse KL" in line and "3.1250" in line for line in lines)
    (rouge,) = [line for line in lines if "ROUGE-L" in line]
    assert [cell.strip() for cell in rouge.strip("│").split("│")] == ["ROUGE-L", "", "", "17.50"]
    assert any("agreement" in line and "34.5%" in line for line in lines)
    assert any("accuracy" in line and "25.0%" in line for line in lines)
    assert any("calibration" in line and "0.0625" in line for line in lines)
    assert "over 12,345 response tokens" in rendered(REPORT)


def test_json_holds_the_same_numbers():
    kept = json.loads(json.dumps(REPORT.to_json(), allow_nan=False))
    assert kept["counted_tokens"] == 12_345
    assert list(kept["models"]) == ["teacher", "student before", "student after"]
    assert kept["models"]["student after"]["forward_kl"] == 2.25
    assert kept["models"]["student after"]["reverse_kl"] == 3.125
    assert (kept["models"]["student after"]["rouge_l"], "rouge_l" in kept["models"]["teacher"]) == (17.5, False)
    assert math.isclose(kept["models"]["student after"]["perplexity"], 182.5)
    assert kept["models"]["student after"]["expected_calibration_error"] == 0.0625
    assert kept["calibration_bins"] == 15
    assert [decile["unc_to"] for decile in kept["unc_deciles"]] == [(number + 1) / 10 for number in range(10)]


def test_the_deciles_have_a_table():
    text = printed(render_deciles(REPORT, "teacher"))
    rows = [line for line in text.splitlines() if "0.1250" in line]
    assert len(rows) == 10
    assert "20.09" in rows[3]  # exp(3)
    assert "1,234.5 response tokens a row" in text


def test_models_with_tokens_of_their_own_are_shown_without_what_needs_one_vocabulary():
    scores = {
        "teacher": Scores(2.0, None, None, None, 0.5, 0.02, tokens=2000, bits_per_byte=1.25),
        "student after": Scores(3.0, None, None, None, 0.25, 0.0625, 17.5, tokens=2500, bits_per_byte=1.5),
    }
    report = Report(2500, scores, text_bytes=4321)
    text = rendered(report)
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines()]
    for row in (
        ["response tokens", "2,000", "2,500"],
        ["perplexity, of own tokens", "7.39", "20.09"],
        ["bits per byte", "1.2500", "1.5000"],
        ["ROUGE-L", "", "17.50"],
    ):
        assert row in cells
    assert "over 4,321 bytes of responses" in text
    assert "KL" not in text
    assert "agreement" not in text
    kept = report.to_json()
    assert (kept["text_bytes"], kept["unc_deciles"]) == (4321, [])
    assert "do not exist between different vocabularies" in kept["note"]
    assert kept["models"]["teacher"]["bits_per_byte"] == 1.25
    assert not {"forward_kl", "reverse_kl", "top1_agreement", "rouge_l"} & kept["models"]["teacher"].keys()


def test_a_diverged_student_is_still_reported():
    report = Report(1, {"teacher": Scores(1e4, math.nan, math.inf, 0.0, 0.0, math.nan)})
    assert report.scores["teacher"].perplexity == math.inf
    scores = report.to_json()["models"]["teacher"]
    assert (scores["perplexity"], scores["forward_kl"], scores["reverse_kl"]) == (None, None, None)
    assert "nan" in rendered(report)
