import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from atkd_jax.data import Instruction, open_instructions
from atkd_jax.errors import InputError
from atkd_jax.evaluation.answering import Decoding
from atkd_jax.evaluation.instruction_sets import SetAnswers, answer_set, paper_prompt, render_set, set_names
from atkd_jax.evaluation.rouge import best_rouge_l
from atkd_jax.evaluation.text_scores import Answer, score_answers
from atkd_jax.interop import load_model

ASKED = [
    Instruction("Add 1 to x.", "", ("x + 1",)),
    Instruction("Write a Python function.", "It adds two numbers.", ("def f(a, b): ...", "def add(a, b): ...")),
]


def test_the_prompt_is_the_papers():
    assert paper_prompt(ASKED[0]) == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nAdd 1 to x.\n\n### Response:\n"
    )
    assert "further context. Write" in paper_prompt(ASKED[1])
    assert "numbers.\n\n### Response:\n" in paper_prompt(ASKED[1])


def test_every_model_answers_in_every_way(tiny_teacher_directory, tiny_tokenizer, monkeypatch):
    model = load_model(tiny_teacher_directory)
    done = []
    settings = {"template": "chat", "max_new_tokens": 4, "max_prompt_tokens": 40, "batch_size": 2}
    ways = [Decoding("greedy"), Decoding("seed_1", 1.0, seed=1), Decoding("seed_2", 1.0, seed=2)]
    found = answer_set(
        "pairs",
        ASKED,
        {"teacher": model},
        {"teacher": tiny_tokenizer},
        wording="paper",
        decodings=ways,
        on_answers=done.append,
        **settings,
    )
    assert sum(done) == 6
    assert found.truncated_prompts == 2  # the paper's words alone are more than 40 tokens of a tokenizer of 300
    scores = found.scores()["teacher"]
    assert scores["greedy"] == score_answers(found.answers["teacher"]["greedy"], [own.references for own in ASKED])
    drawn = [own["rouge_l"] for own in scores["seeds"].values()]
    assert scores["sampled"]["rouge_l"]["mean"] == pytest.approx(sum(drawn) / 2)
    (_, record) = found.records("teacher", "seed_2")
    assert record["input"] == "It adds two numbers."
    assert record["rouge_l"] == best_rouge_l(record["answer"], record["references"])
    tokenizers = {"a": tiny_tokenizer}
    short = answer_set("pairs", ASKED, {"a": model}, tokenizers, wording="data", decodings=ways[:1], **settings)
    assert short.truncated_prompts < 2


def test_the_table_shows_means_and_spread():
    answers = {"greedy": [Answer("x + 1", 4, True)], "seed_1": [Answer("x", 1, True)], "seed_2": [Answer("", 9, False)]}
    scores = SetAnswers("pairs", ASKED[:1], 0, {"student": answers}).scores()
    stream = io.StringIO()
    Console(file=stream, width=100).print(render_set("pairs", 1, scores))
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in stream.getvalue().splitlines()]
    assert ["ROUGE-L, greedy", "100.00"] in cells
    assert ["tokens, sampled", "5.00 ± 5.66"] in cells


def test_sets_have_names_of_their_own():
    assert set_names(["/a/dolly.jsonl", "owner/name", "set/config:1.0.0"]) == {
        "dolly": "/a/dolly.jsonl",
        "owner_name": "owner/name",
        "set_config_1.0.0": "set/config:1.0.0",
    }
    with pytest.raises(InputError, match=r"/a/x.jsonl and /b/x.jsonl are both 'x'"):
        set_names(["/a/x.jsonl", "/b/x.jsonl"])


SETS = Path(__file__).parents[2].parent / "shared" / "data" / "eval"


@pytest.mark.skipif(not SETS.is_dir(), reason="the paper's sets are not beside this checkout")
@pytest.mark.parametrize(
    ("name", "count"), [("dolly", 500), ("self-inst", 242), ("vicuna", 80), ("koala", 180), ("wizardlm", 218)]
)
def test_the_papers_sets_are_read_and_worded_as_they_are_in_it(name, count, tmp_path):
    path = SETS / f"{name}.jsonl"
    asked = open_instructions(str(path), split="train", cache_dir=tmp_path, limit=None)
    assert len(asked) == count
    # koala and wizardlm lack a space after the first of their hash signs.
    given = [
        json.loads(line)["prompt"].replace("###Instruction", "### Instruction")
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    assert [paper_prompt(own) for own in asked] == given
