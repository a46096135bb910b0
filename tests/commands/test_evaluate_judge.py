import io
import json
import re

import pytest
from rich.console import Console

from atkd_jax.commands.evaluate_judge import check_judge, judge_answers
from atkd_jax.config import Config
from atkd_jax.errors import InputError


@pytest.fixture
def judge(openai_server, tmp_path, monkeypatch):
    """Runs the judge over three greedy answers of one model; gives the results, what was printed, and transcripts."""
    monkeypatch.setenv("JUDGE_KEY", "sk-judge")
    folder = tmp_path / "answers" / "dolly"
    folder.mkdir(parents=True)
    records = [
        {"instruction": f"Question {n}", "input": "", "answer": f"answer {n}", "references": [f"reference {n}"]}
        for n in range(3)
    ]
    (folder / "student_after.greedy.jsonl").write_text("".join(json.dumps(own) + "\n" for own in records))
    (folder / "student_after.seed_10.jsonl").write_text(json.dumps(records[0]) + "\n")

    def answer(path, body):
        assert path == "chat/completions"
        number = int(re.search(r"Question (\d)", body["messages"][1]["content"])[1])
        return {"choices": [{"message": {"content": f"{number + 1} 4\nIt is so."}}], "usage": {"total_tokens": 9}}

    openai_server.answer = answer

    def run(confirmed=True, **changes):
        settings = {"endpoint": openai_server.url, "model": "gpt", "api_key_variable": "JUDGE_KEY", "attempts": 1}
        config = Config.model_validate(
            {"run_dir": str(tmp_path), "evaluation": {"judge": settings | {"max_in_flight": 1} | changes}}
        )
        stream = io.StringIO()
        judge_answers(config, confirmed=confirmed, console=Console(file=stream, width=160))
        lines = (tmp_path / "judge.jsonl").read_text(encoding="utf-8").removesuffix("\n").split("\n")
        results = json.loads((tmp_path / "judge.json").read_text())["results"]
        return results, stream.getvalue(), [json.loads(line) for line in lines]

    return run


def test_answers_are_scored_and_transcripts_kept(judge, openai_server):
    (result,), out, transcripts = judge()
    assert result["ratio_percent"] == 50.0  # (1 + 2 + 3) / (4 + 4 + 4)
    assert "judge: 3 requests to gpt at" in out
    assert "50.00%" in out
    assert set(openai_server.keys) == {"Bearer sk-judge"}
    assert [line["reply"] for line in transcripts] == ["1 4\nIt is so.", "2 4\nIt is so.", "3 4\nIt is so."]
    assert transcripts[0]["messages"] == openai_server.requests[0][1]["messages"]
    assert "sk-judge" not in json.dumps(transcripts)


def test_both_orders_and_other_decodings_by_choice(judge, openai_server):
    (result,), _, transcripts = judge(both_orders=True, max_examples=2)
    assert (result["asked"], [line["order"] for line in transcripts[:2]]) == (4, ["answer first", "reference first"])
    assert result["ratio_percent"] == pytest.approx(100 * (1 + 4 + 2 + 4) / (4 + 1 + 4 + 2))
    results, *_ = judge(decodings=["greedy", "seed_10"])
    assert {line["decoding"]: line["asked"] for line in results} == {"greedy": 3, "seed_10": 1}


def test_what_has_a_reply_is_not_asked_again_and_what_has_none_is(judge, openai_server):
    openai_server.faults = [503, "hang up"]
    (result,), out, _ = judge()
    assert (result["scored"], result["unanswered"]) == (1, 2)
    assert "2 of 3 have no scores" in out
    (result,), out, transcripts = judge()
    assert (result["scored"], result["unanswered"], len(openai_server.requests)) == (3, 0, 5)
    assert "judge: 2 requests" in out
    _, out, _ = judge(confirmed=False)  # Nothing is left to ask, so that nothing needs consent.
    assert len(openai_server.requests) == 5
    assert "requests" not in out
    assert len(transcripts) == 5


def test_a_transcript_that_a_stop_cut_off_is_asked_again(judge, openai_server, tmp_path):
    judge()
    path = tmp_path / "judge.jsonl"
    path.write_text(path.read_text()[:-30])
    (result,), _, transcripts = judge()
    assert (result["scored"], len(transcripts), len(openai_server.requests)) == (3, 3, 4)


@pytest.mark.parametrize("odd", ["a\u2028b", "a\u2029b", "a\x85b"])
def test_only_a_newline_ends_a_line(judge, openai_server, tmp_path, odd):
    path = tmp_path / "answers" / "dolly" / "student_after.greedy.jsonl"
    record = {"instruction": "Question 0", "input": "", "answer": odd, "references": [odd]}
    path.write_text(json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")
    openai_server.answer = lambda path, body: {"choices": [{"message": {"content": f"8 4\n{odd}"}}]}
    judge()
    (result,), _, (transcript,) = judge(confirmed=False)
    assert (result["scored"], result["answer_mean"], len(openai_server.requests)) == (1, 8.0, 1)
    assert transcript["reply"] == f"8 4\n{odd}"


@pytest.mark.parametrize("reply", [{"choices": [{"message": {"content": "Both are fine."}}]}, {"error": "odd"}])
def test_what_cannot_be_read_is_counted(judge, openai_server, reply):
    openai_server.answer = lambda path, body: reply
    (result,), out, transcripts = judge()
    assert (result["unreadable"], result["scored"], result["ratio_percent"]) == (3, 0, None)
    assert "3 of 3 have no scores" in out
    assert all(line["reply"] for line in transcripts)


def test_the_cost_is_agreed_to_before_it_starts(judge, openai_server):
    with pytest.raises(InputError, match="no prices are set; add --yes"):
        judge(confirmed=False)
    prices = {"input_price": 1e4, "output_price": 1e4, "max_output_tokens": 100}
    with pytest.raises(InputError, match=r"estimated cost is \d+\.\d\d and max_cost 1.0"):
        judge(confirmed=False, max_cost=1.0, **prices)
    assert not openai_server.requests
    _, out, transcripts = judge(confirmed=False, max_cost=100.0, **prices)
    characters = sum(len(message["content"]) for line in transcripts for message in line["messages"])
    shown = float(re.search(r"at most about ([\d.]+) at the prices", out)[1])
    assert shown == pytest.approx((characters / 4 + 300) / 100, abs=0.05)


def test_a_refusal_stops_it(judge, openai_server):
    openai_server.faults = [401]
    with pytest.raises(InputError, match="status 401"):
        judge()
    assert len(openai_server.requests) == 1


def test_no_answers_are_refused(judge):
    with pytest.raises(InputError, match="holds none of"):
        judge(decodings=["seed_99"])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "judge.endpoint to be set"),
        ({"endpoint": "http://x"}, "judge.model to be set"),
        ({"endpoint": "http://x", "model": "m", "api_key_variable": "ABSENT_KEY"}, "ABSENT_KEY must hold the API key"),
        ({"endpoint": "http://x", "model": "m", "api_key_variable": None, "max_cost": 1.0}, "max_cost needs them"),
    ],
)
def test_what_is_not_set_is_found_out_first(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        check_judge(Config.model_validate({"evaluation": {"judge": settings}}))
