import json

import pytest
from rouge_score import rouge_scorer

from atkd_jax.commands.main import main

ASKED = [
    {"instruction": "Add 1 to x.", "input": "", "output": "x + 1", "prompt": "### Add 1 to x."},
    {"instruction": "Write a Python function.", "input": "Two numbers.", "output": "def add(a, b): return a + b"},
]
FEW = ["--evaluation.max_examples", "2", "--evaluation.samples", "0", "--evaluation.instructions.max_new_tokens", "6"]


@pytest.fixture
def sets(tmp_path):
    path = tmp_path / "few.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in ASKED))
    return ["--evaluation.instructions.sets", str(path)]


def test_models_answer_sets_greedily_and_with_seeds(untrained, untrained_words, sets, capsys):
    words = [*FEW, *sets, "--evaluation.instructions.seeds", "1", "2"]
    assert main(["evaluate", *untrained_words, "--no-run", *words]) == 0
    out = capsys.readouterr().out
    for part in ("answered: 12 of 12", "few, 2 instructions", "ROUGE-L, greedy", "distinct-2, sampled", "±"):
        assert part in out
    kept = json.loads((untrained.run_dir / "evaluation.json").read_text())["instruction_sets"]["few"]
    assert (kept["instructions"], kept["truncated_prompts"]) == (2, 0)
    assert list(kept["models"]) == ["teacher", "student before"]
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    for model, scores in kept["models"].items():
        assert list(scores["seeds"]) == ["seed_1", "seed_2"]
        for decoding, own in {"greedy": scores["greedy"], **scores["seeds"]}.items():
            path = untrained.run_dir / "answers" / "few" / f"{model.replace(' ', '_')}.{decoding}.jsonl"
            records = [json.loads(line) for line in path.read_text().splitlines()]
            assert [record["instruction"] for record in records] == [asked["instruction"] for asked in ASKED]
            rouge = [
                scorer.score(asked["output"], record["answer"]) for asked, record in zip(ASKED, records, strict=True)
            ]
            assert own["rouge_l"] == pytest.approx(50 * sum(score["rougeL"].fmeasure for score in rouge))
            assert own["mean_tokens"] == sum(record["tokens"] for record in records) / 2


def test_a_set_that_cannot_be_read_is_one_sentence(untrained, untrained_words, tmp_path, capsys):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"instruction": "Add.", "output": 3}\n')
    words = ["--no-run", *FEW, "--evaluation.instructions.sets", str(path)]
    assert main(["evaluate", *untrained_words, *words]) == 2
    err = capsys.readouterr().err
    assert f"{path} line 1 must have a text" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--evaluation.instructions.seeds", "1", "1"], "each once"),
        (["--evaluation.instructions.greedy", "false", "--evaluation.instructions.seeds"], "so that there are answers"),
    ],
)
def test_settings_that_make_no_sense_are_one_sentence(words, sentence, untrained_words, sets, capsys):
    assert main(["evaluate", *untrained_words, "--no-run", *sets, *words]) == 2
    assert sentence in capsys.readouterr().err
