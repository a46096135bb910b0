import json

import pytest

from atkd_jax.commands.main import main

# Packages of the harness leave files open and use what other packages deprecate.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def tasks(tmp_path):
    """The words that name a folder with tasks made from local files, three of them called as the paper's."""
    questions = [{"question": f"Add {n} to x.", "choices": ["x", "y + 1"], "gold": n % 2} for n in range(8)]
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps(question) + "\n" for question in questions))
    folder = tmp_path / "tasks"
    folder.mkdir()
    body = (
        f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\ntest_split: test\n"
        "output_type: multiple_choice\ndoc_to_text: '{{question}}'\ndoc_to_choice: '{{choices}}'\ndoc_to_target: gold\n"
    )
    for task, alias in (("own_choices", "Own choices"), ("mmlu_own", "own"), ("drop", "drop"), ("bbh", "bbh")):
        (folder / f"{task}.yaml").write_text(f"task: {task}\ntask_alias: {alias}\n{body}")
    group = "group: mmlu\ntask: [mmlu_own]\naggregate_metric_list: [{metric: acc}]\n"
    (folder / "mmlu.yaml").write_text(group)
    return ["--evaluation.harness.task_folder", str(folder)]


def test_a_task_of_ones_own_runs_on_every_model(untrained, untrained_words, tasks, capsys):
    words = ["--no-run", "--no-measure", "--harness", "own_choices", "--evaluation.harness.limit", "2"]
    assert main(["evaluate", *untrained_words, *words, *tasks]) == 0
    out = capsys.readouterr().out
    for part in ("teacher: scored: 4 of 4", "student before: scored: 4 of 4", "own_choices", "acc"):
        assert part in out
    kept = json.loads((untrained.run_dir / "harness.json").read_text())
    assert list(kept["models"]) == ["teacher", "student before"]
    for measures in kept["models"].values():
        assert 0 <= measures["own_choices"]["acc"] <= 1
        assert measures["own_choices"]["num_fewshot"] == 0
    assert not (untrained.run_dir / "evaluation.json").exists()


def test_the_papers_tasks_are_asked_with_the_papers_shots(untrained, untrained_words, tasks):
    words = ["--no-run", "--no-measure", "--harness", "mmlu,drop,bbh", "--evaluation.harness.limit", "1"]
    assert main(["evaluate", *untrained_words, *words, *tasks]) == 0
    kept = json.loads((untrained.run_dir / "harness.json").read_text())
    for found in kept["models"].values():
        shots = {task: measures["num_fewshot"] for task, measures in found.items()}
        assert shots == {"mmlu": 5, "mmlu_own": 5, "drop": 3, "bbh": 3}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        # To say this it reads all of the harness's own tasks.
        pytest.param(
            ["--harness", "own_choicez"], "'own_choicez' is none; the nearest is own_choices", marks=pytest.mark.slow
        ),
        (["--harness", ","], "must name at least one task"),
        (["--harness", "own_choices", "--evaluation.harness.task_folder", "/absent"], "but /absent is none"),
        (["--judge"], "--judge needs evaluation.judge.endpoint to be set"),
    ],
)
def test_what_is_wrong_is_one_sentence_before_anything_is_loaded(words, sentence, untrained_words, tasks, capsys):
    assert main(["evaluate", *untrained_words, "--teacher.model", "/not/read", *tasks, *words]) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert err.count("\n") == 1
