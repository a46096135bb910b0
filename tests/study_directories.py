"""A study's directory as `study` leaves it, with texts that would break a careless page; a pytest plugin."""

import json

import pytest
from run_directories import HOSTILE, write_run

from atkd_jax.analysis.claims import judge_claims
from atkd_jax.analysis.grid import expand
from atkd_jax.analysis.plots import draw_measure
from atkd_jax.analysis.results import Result
from atkd_jax.analysis.study_file import read_study
from atkd_jax.analysis.summary import summarize
from atkd_jax.analysis.tables import as_json

STUDY = """directory: {directory}
seeds: [0, 1, 2]
reference: kd
prepared:
  t: {{}}
cells:
  kd: {{settings: {{teacher.model: "cell:t"}}}}
  atkd: {{settings: {{objective.easy_weight: 0.5, teacher.model: "cell:t"}}}}
claims:
  - {{name: {claim}, sentence: "{claim} and more", cells: [atkd], expect: lower, than: [kd]}}
"""
LEVELS = {"kd": (20.0, 22.0, 21.5), "atkd": (19.0, 20.8, 20.4), "t": (9.0,)}


@pytest.fixture
def study_dir(tmp_path):
    """Two cells over three seeds and a teacher, whose runs have curves and samples; one run has failed."""
    directory = tmp_path / "a study"
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.format(directory=directory, claim=HOSTILE))
    study = read_study(path)
    cells = expand(study, path=path)
    results = []
    for cell in cells:
        easy_weight = cell.config.objective.easy_weight
        write_run(directory / cell.key, factor=1.0 + cell.seed / 10, easy_weight=easy_weight)
        results.append(Result(cell, {"perplexity": LEVELS[cell.name][cell.seed], "forward_kl": 0.5}, {}, 60.0))
    summaries = summarize(results, study)
    draw_measure(summaries, x="cell", measure="perplexity", path=directory / "perplexity_by_cell.png")
    prints = {cell.key: f"print-of-{cell.key}" for cell in cells}
    verdicts = judge_claims(study, cells, results)
    kept = as_json(results, summaries, {"sft/0": HOSTILE}, verdicts, fingerprints=prints)
    (directory / "results.json").write_text(json.dumps(kept))
    (directory / "study.yaml").write_text(path.read_text())
    (directory / "uncertainty.csv").write_text(f"teacher,tokens,mean\n{HOSTILE},120,0.123456\n")
    return directory
