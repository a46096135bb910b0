import json

import pytest
import yaml

from atkd_jax.analysis.labelled_report import labelled_blocks, subject_of, untaught_notes
from atkd_jax.analysis.run_files import read_runs
from atkd_jax.analysis.run_report import run_report

SIMILARITY = {"objective": {"name": "forward_kl", "token_similarity": {"scale": 20.0}}, "teacher": {"model": "big"}}


@pytest.fixture
def run_of(tmp_path):
    """Writes a run directory from a config and files of JSON, and reads it."""

    def make(name, config, **files):
        directory = tmp_path / name
        directory.mkdir()
        (directory / "config.yaml").write_text(yaml.safe_dump(config))
        for file, content in files.items():
            (directory / f"{file}.json").write_text(json.dumps(content))
        return read_runs([directory])[0]

    return make


@pytest.mark.parametrize(
    ("config", "subject"),
    [
        ({"objective.name": "atkd", "teacher.model": "big", "data.source": "texts"}, "atkd, big on texts"),
        (
            {"objective.name": "forward_kl", "objective.token_similarity.scale": 2.0, "teacher.model": "big"},
            "forward_kl, how alike the embeddings of big are on ?",
        ),
        ({"images.source": "digits", "images.weight": 0.5}, "classes of digits, soft labels from an autoencoder"),
        ({"images.source": "digits", "images.weight": 0}, "classes of digits, labels alone"),
        ({"answers.source": "a.jsonl", "teacher.model": "big"}, "scores of a.jsonl, big as the fine-tuned teacher"),
        ({"answers.source": "a.jsonl", "answers.teacher_weight": 0.0}, "scores of a.jsonl, scores alone"),
    ],
)
def test_a_run_is_said_to_learn_from_whom_it_does(config, subject):
    assert subject_of(config) == subject


def test_scorers_and_images_have_their_tables(run_of):
    scores = {"accuracy": 0.5, "macro_f1": 0.25, "kappa": 0.125, "parameters": 26000, "milliseconds": 0.1}
    kept = {"source": "a.jsonl", "split": "test", "answers": 1742, "teacher": scores | {"parameters": 10**6}}
    answers = run_of("answers", {"answers": {"source": "a.jsonl"}}, scores=kept | {"student": scores})
    found = {"source": "digits", "split": "test", "accuracy": 0.972, "examples": 360, "step": 600}
    images = run_of("images", {"images": {"source": "digits"}}, accuracy=found)
    table, note, right = labelled_blocks([answers, images])
    assert table.headings == ["", "answers: teacher", "answers: student"]
    assert ["parameters", "1,000,000", "26,000"] in table.rows
    assert ["quadratic weighted kappa", "0.125", "0.125"] in table.rows
    assert note.text == "answers: 1,742 answers of a.jsonl, test."
    assert right.rows == [["images", "97.2%", "360", "digits, test", "600"]]
    page = run_report([images])
    assert "launch.py evaluate does it" not in page
    assert "97.2%" in page


def test_a_teacher_that_never_ran_is_said_not_to_have_taught(run_of, run_dir):
    assert untaught_notes(read_runs([run_dir])) == []
    (note,) = untaught_notes([run_of("soft", SIMILARITY, evaluation={"models": {}})])
    assert "the teacher's layers never ran in training" in note.text
