import json

import pytest
from read_pages import BROWSER, Read, addresses_in_pictures, browsed
from run_directories import HOSTILE, write_run

from atkd_jax.analysis.run_files import read_runs
from atkd_jax.analysis.run_report import run_report


def test_models_with_tokens_of_their_own_are_shown_per_byte(run_dir):
    assert not [row for row in Read(run_report(read_runs([run_dir]))).rows if row[0] == "bits per byte"]
    path = run_dir / "evaluation.json"
    own = {"perplexity": 9.0, "bits_per_byte": 1.25}
    models = {"teacher": own, "student after": own | {"bits_per_byte": 1.5}}
    kept = json.loads(path.read_text()) | {"models": models, "unc_deciles": [], "note": "They do not compare."}
    path.write_text(json.dumps(kept))
    read = Read(run_report(read_runs([run_dir])))
    assert ["bits per byte", "1.2500", "1.5000"] in read.rows
    assert ["forward KL to the teacher", "-", "-"] in read.rows
    assert "checkpoint of step 39. They do not compare." in read.text


def test_one_run_has_all_its_sections(run_dir):
    read = Read(run_report(read_runs([run_dir])))
    assert ["perplexity", "10.00", "20.00"] in read.rows
    assert ["top-1 agreement", "50.0%", "33.3%"] in read.rows
    by_decile = [row for row in read.rows if row[0] == "perplexity" and len(row) == 11]
    assert [row[1:3] for row in by_decile] == [["10.00", "20.00"], ["20.00", "40.00"]]
    assert [
        "student after, sampled",
        "21.5 ± 0.25",
        "0.4 ± 0.25",
        "0.7 ± 0.25",
        "0.9 ± 0.25",
        "70 ± 0.25",
        "0.8 ± 0.25",
    ] in read.rows
    assert ["dolly, student_after, greedy", "4.00", "8.00", "50.00", "79", "1", "0"] in read.rows
    assert ["mmlu, acc", "0.2512"] in read.rows
    assert [HOSTILE, "120", "0.1235"] in read.rows
    pictures = [attrs["alt"] for tag, attrs in read.tags if tag == "img"]
    assert pictures[:1] == ["perplexity by decile of UNC"]
    assert pictures[5:] == ["loss by step", "gradient_norm by step"]  # What never changes has no picture.
    assert "7,161 response tokens of 64 examples of python_stdlib, test; checkpoint of step 39." in read.text
    assert "easy_weight: 0.2" in read.text
    assert '"jax": "0.10.2"' in read.text


def test_texts_are_shown_and_not_obeyed(run_dir):
    read = Read(run_report(read_runs([run_dir])))
    assert read.text.count(HOSTILE) >= 4  # teacher's name, prompt, answer, platform
    assert not {"script", "b"} & {tag for tag, _ in read.tags}
    assert all(attrs.get("src", "data:image/").startswith("data:image/") for _, attrs in read.tags)


def test_pictures_name_no_address(run_dir, other_run_dir):
    assert not addresses_in_pictures(run_report(read_runs([run_dir, other_run_dir])))


def test_runs_are_compared(run_dir, other_run_dir):
    read = Read(run_report(read_runs([run_dir, other_run_dir])))
    assert ["perplexity", "10.00", "20.00", "10.00", "30.00"] in read.rows
    assert ["", "atkd: teacher", "atkd: student after", "kd: teacher", "kd: student after"] in read.rows
    assert ["objective.easy_weight", "0.2", "0.5"] in read.rows
    assert not any(row[:1] == ["objective.name"] for row in read.rows)  # It does not differ.
    sides = [index for index, (tag, attrs) in enumerate(read.tags) if attrs.get("class") == "side"]
    assert len(sides) == 1
    shown = [tag for tag, _ in read.tags[sides[0] :]]
    assert shown[: shown.index("section")].count("h3") == 6  # Prompt, response, and two answers of each run.


def test_a_run_that_was_only_trained_has_a_page(tmp_path):
    page = run_report(read_runs([write_run(tmp_path / "bare", everything=False)]))
    assert "launch.py evaluate does it" in page
    assert "Judge" not in page


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
@pytest.mark.slow
def test_a_browser_draws_it(run_dir, other_run_dir, tmp_path):
    dom, pictures = browsed(run_report(read_runs([run_dir, other_run_dir])), tmp_path, height=4200)
    assert dom.count('<section id="section-') == 10
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in dom
    assert pictures == 7
