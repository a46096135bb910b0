import pytest

from atkd_jax.evaluation.judge import digest, estimated_tokens, make_cases, read_scores, summarise

RECORDS = [
    {"instruction": "Add 1 and 2.", "input": "", "answer": "three", "references": ["3", "drei"]},
    {"instruction": "Shorten.", "input": "A long text.", "answer": "Text.", "references": ["A text."]},
]


def cases(both_orders=True):
    return make_cases(RECORDS, set_name="dolly", model="student", decoding="greedy", both_orders=both_orders)


def test_each_answer_is_shown_beside_the_first_reference_in_both_orders():
    first, turned, other, _ = cases()
    text, turned_text = (case.messages[1]["content"] for case in (first, turned))
    assert text.index("three") < text.index("\n3\n")
    assert turned_text.index("\n3\n") < turned_text.index("three")
    assert "Shorten.\n\nA long text." in other.messages[1]["content"]
    assert [case.order for case in cases(both_orders=False)] == ["answer first"] * 2


def test_scores_belong_to_the_answer_whatever_the_order():
    first, turned, *_ = cases()
    assert first.scores("9 4\nwhy") == (9, 4)
    assert turned.scores("9 4\nwhy") == (4, 9)
    assert turned.scores("no idea") is None


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("7 8", (7, 8)),
        ("  7, 8.5 \nbecause 10 is too much", (7, 8.5)),
        ("<think>\n3 3?\n</think>\n\n10 1", (10, 1)),
        ("<think>\n3 3?\n</think>\n\n10 1\n<think> was theirs", (10, 1)),
        ("<think>\n8 7 at first sight", None),
        ("<think>8 7", None),
        ("<think>3 3?</think>\n<think>\n8 7", None),
        ("Assistant 1: 6/10 Assistant 2: 5/10", (6, 5)),
        ("0 5", None),
        ("11 5", None),
        ("-7 8", None),
        ("7 8 9", None),
        ("", None),
        ("I would say\n7 8", None),
    ],
)
def test_a_reply_is_read_or_refused(reply, expected):
    assert read_scores(reply) == expected


def line(scores, reply="text", model="student"):
    return {"set": "dolly", "model": model, "decoding": "greedy", "reply": reply, "scores": scores}


def test_the_ratio_is_of_sums_and_what_has_no_scores_is_counted():
    found, other = summarise([line([8, 4]), line([2, 6]), line(None), line(None, reply=None), line([1, 2], model="b")])
    assert found["ratio_percent"] == 100.0  # (8 + 2) / (4 + 6), and not the mean of 2 and 1/3
    assert (found["asked"], found["scored"], found["unreadable"], found["unanswered"]) == (4, 2, 1, 1)
    assert (other["model"], other["ratio_percent"]) == ("b", 50.0)
    (nothing,) = summarise([line(None)])
    assert nothing["ratio_percent"] is None


def test_tokens_are_estimated_from_what_is_sent():
    requests = [case.request(model="judge", max_output_tokens=100) for case in cases()]
    sent, received = estimated_tokens(requests)
    characters = sum(len(message["content"]) for request in requests for message in request["messages"])
    assert characters / 4 - 4 <= sent <= characters / 4
    assert received == 400
    assert len({digest(request) for request in requests}) == 4
