import json
import shutil

import pytest

from atkd_jax.analysis.study_directory import is_study_directory, read_study_directory
from atkd_jax.errors import InputError


def test_what_was_kept_is_read_back(study_dir):
    assert is_study_directory(study_dir)
    assert not is_study_directory(study_dir / "kd" / "0")
    study = read_study_directory(study_dir)
    assert [each.name for each in study.summaries] == ["t", "kd", "atkd"]
    atkd = study.summaries[2]
    assert (atkd.reference, atkd.comparisons["perplexity"].n) == ("kd", 3)
    assert atkd.comparisons["perplexity"].mean_difference == pytest.approx(-1.1)
    assert [each.verdict for each in study.verdicts] == ["seen"]
    assert study.verdicts[0].comparison.p_value == atkd.comparisons["perplexity"].p_value
    run = study.runs[1]
    assert (run.key, run.needs, run.inputs) == ("kd/0", ("t/0",), "print-of-kd/0")
    assert list(study.pictures) == ["perplexity_by_cell.png"]


def test_results_outlive_their_runs_and_older_results_are_read(study_dir):
    shutil.rmtree(study_dir / "kd")
    path = study_dir / "results.json"
    kept = json.loads(path.read_text())
    del kept["claims"]
    for run in kept["runs"]:
        for name in ("inputs", "needs", "prepared"):
            del run[name]
    kept["summary"][1]["spreads"]["perplexity"] |= {"mean": None, "deviation": None}
    path.write_text(json.dumps(kept))
    study = read_study_directory(study_dir)
    assert study.verdicts == []
    assert [run.files is None for run in study.runs] == [run.key.startswith("kd") for run in study.runs]
    assert str(study.summaries[1].spreads["perplexity"].mean) == "nan"


def test_a_damaged_file_is_told(study_dir):
    (study_dir / "results.json").write_text('{"summary": [{}]}')
    with pytest.raises(InputError, match=r"results\.json is not what study wrote .*; run the study again\."):
        read_study_directory(study_dir)
