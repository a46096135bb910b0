import json

import numpy as np
import pytest
from read_pages import BROWSER, Read, addresses_in_pictures, browsed
from run_directories import HOSTILE

from atkd_jax.analysis.plots import draw_densities
from atkd_jax.analysis.study_directory import read_study_directory
from atkd_jax.analysis.study_report import study_report


@pytest.fixture
def page(study_dir):
    return study_report(read_study_directory(study_dir))


def test_pictures_name_no_address(page):
    assert not addresses_in_pictures(page)


def test_a_study_has_all_its_sections(page, study_dir):
    read = Read(page)
    assert [HOSTILE, f"{HOSTILE} and more", "seen"] in read.rows
    p_value = read_study_directory(study_dir).verdicts[0].comparison.p_value
    assert [HOSTILE, "seen", "perplexity, atkd less kd's: lower", "-1.1", f"{p_value:.3f}", "3"] in read.rows
    assert ["atkd", "3", "20.07 ± 0.95", "0.5000 ± 0.0000"] in read.rows
    assert ["atkd", "kd", f"-1.10 ({p_value:.3f})", "+0.0000 (no test)", "3"] in read.rows
    assert ["kd/1", "22.00", "0.5000", "60"] in read.rows
    assert ["cell", "objective.easy_weight"] in read.rows
    assert ["atkd/0", "0.5"] in read.rows
    assert ["kd/2", "print-of-kd/2", "t/0"] in read.rows
    assert [HOSTILE, "120", "0.1235"] in read.rows
    assert ["sft/0", HOSTILE] in read.rows
    pictures = [attrs["alt"] for tag, attrs in read.tags if tag == "img"]
    assert pictures == ["perplexity by cell", "loss by step", "gradient_norm by step"]
    assert "two-sided paired t-test over the seeds has p < 0.05" in read.text
    assert "7 runs: t/0, kd/0, atkd/0, kd/1, ..." in read.text  # All on one machine.
    assert f'"platform": "{HOSTILE}"' in read.text


def test_texts_are_shown_and_nothing_is_loaded(page):
    read = Read(page)
    assert not {"script", "b", "link", "iframe"} & {tag for tag, _ in read.tags}
    assert all(attrs.get("src", "data:image/").startswith("data:image/") for _, attrs in read.tags)
    assert all(attrs.get("href", "#").startswith("#") for _, attrs in read.tags)


def test_a_study_without_claims_or_runs_has_a_page(study_dir):
    path = study_dir / "results.json"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps(kept | {"claims": [], "runs": [], "summary": []}))
    text = Read(study_report(read_study_directory(study_dir))).text
    assert "Claims" not in text
    assert "Every run" not in text


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
@pytest.mark.slow
def test_a_browser_draws_it(study_dir, tmp_path):
    draw_densities({"t": (np.array([0.0, 1.0]), np.ones(2))}, title="x", x="UNC", path=study_dir / "uncertainty.png")
    dom, pictures = browsed(study_report(read_study_directory(study_dir)), tmp_path, height=4800)
    assert dom.count('<section id="section-') == 9
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in dom
    assert pictures == 4
