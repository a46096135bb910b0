"""A judge's scores of answers beside reference answers: what is asked, how a reply is read, what comes of it.

The paper's protocol (Zhong et al., 2024, section 4, after Vicuna's and MiniLLM's): the judge sees the question and two
answers, and scores each from 1 to 10; a model's number is the sum of its scores over that of the references'.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Order = Literal["answer first", "reference first"]
# A common rule of thumb for English text.
_CHARACTERS_PER_TOKEN = 4

_TASK = (
    "You compare two answers to one question. For each give a score from 1 to 10 for how helpful, relevant, accurate "
    "and detailed it is; 10 is best. The order in which the answers stand must not matter to you. Write the two scores "
    "on the first line, the first answer's before the second's, with a space between them and nothing else. Explain "
    "them from the second line on."
)


@dataclass(frozen=True)
class Case:
    """One question to the judge: an answer and a reference, in an order.

    Attributes:
        set_name: The set of instructions.
        model: Who answered.
        decoding: How: `greedy`, or `seed_10` and so on.
        number: Of the instruction in its set, from 0.
        order: Which of the two is shown first.
        question: The instruction with its input.
        answer: The model's.
        reference: The first one of the set's.
    """

    set_name: str
    model: str
    decoding: str
    number: int
    order: Order
    question: str
    answer: str
    reference: str

    @property
    def messages(self) -> list[dict[str, str]]:
        """What the judge is sent."""
        shown = [self.answer, self.reference]
        first, second = shown if self.order == "answer first" else reversed(shown)
        text = (
            f"[Question]\n{self.question}\n\n[First answer]\n{first}\n[End of the first answer]\n\n"
            f"[Second answer]\n{second}\n[End of the second answer]"
        )
        return [{"role": "system", "content": _TASK}, {"role": "user", "content": text}]

    def request(self, *, model: str, max_output_tokens: int) -> dict[str, Any]:
        """The body for `chat/completions`."""
        return {"model": model, "messages": self.messages, "max_tokens": max_output_tokens, "temperature": 0}

    def scores(self, reply: str) -> tuple[float, float] | None:
        """The answer's and the reference's score; None where the reply cannot be read."""
        found = read_scores(reply)
        return found if found is None or self.order == "answer first" else (found[1], found[0])

    def facts(self) -> dict[str, Any]:
        """What a transcript says of the case."""
        return {
            "set": self.set_name,
            "model": self.model,
            "decoding": self.decoding,
            "number": self.number,
            "order": self.order,
        }


def make_cases(
    records: Sequence[Mapping[str, Any]], *, set_name: str, model: str, decoding: str, both_orders: bool
) -> list[Case]:
    """Returns the questions about one model's answers to one set, as `SetAnswers.records` gives them."""
    orders: list[Order] = ["answer first", "reference first"] if both_orders else ["answer first"]
    return [
        Case(
            set_name,
            model,
            decoding,
            number,
            order,
            question="\n\n".join(filter(None, (record["instruction"], record["input"]))),
            answer=record["answer"],
            reference=record["references"][0],
        )
        for number, record in enumerate(records)
        for order in orders
    ]


def read_scores(reply: str) -> tuple[float, float] | None:
    """Returns the two scores on a reply's first line, in its order; None where there are not two from 1 to 10.

    What a judge thinks aloud between `<think>` and `</think>` is passed over, and so is all that follows a `<think>`
    that never ends.

    Example:
        >>> read_scores("8 7.5\\nThe first is ..."), read_scores("First answer: 8/10, second answer: 7/10")
        ((8.0, 7.5), (8.0, 7.0))
        >>> read_scores("Both are good."), read_scores("8 70"), read_scores("7")
        (None, None, None)
    """
    spoken = re.sub(r"<think>.*?(?:</think>|\Z)", "", reply, flags=re.DOTALL).strip()
    line = re.sub(r"/\s*10\b|(?<=[Aa]nswer )[12]\b|(?<=[Aa]ssistant )[12]\b", "", spoken.partition("\n")[0])
    scores = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", line)]
    return (scores[0], scores[1]) if len(scores) == 2 and all(1 <= score <= 10 for score in scores) else None


def digest(request: Mapping[str, Any]) -> str:
    """Returns what tells one request from another, so that an answered one is not sent again."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:32]


def estimated_tokens(requests: Iterable[Mapping[str, Any]]) -> tuple[int, int]:
    """Returns about how many tokens are sent, at 4 characters a token, and at most come back."""
    sent = received = 0
    for request in requests:
        sent += sum(len(message["content"]) for message in request["messages"]) // _CHARACTERS_PER_TOKEN
        received += request["max_tokens"]
    return sent, received


def summarise(transcripts: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns, for each set, model and decoding, the ratio of sums in percent, and how many replies are in it.

    `unreadable` replies, and questions that were `unanswered`, are in no sum, but are counted.
    """
    groups: dict[tuple[str, str, str], dict[str, Any]] = {}
    for line in transcripts:
        key = line["set"], line["model"], line["decoding"]
        own = groups.setdefault(key, {"asked": 0, "scored": 0, "unreadable": 0, "unanswered": 0, "sums": [0.0, 0.0]})
        own["asked"] += 1
        if line.get("reply") is None:
            own["unanswered"] += 1
        elif line["scores"] is None:
            own["unreadable"] += 1
        else:
            own["scored"] += 1
            own["sums"] = [total + score for total, score in zip(own["sums"], line["scores"], strict=True)]
    return [
        {
            "set": set_name,
            "model": model,
            "decoding": decoding,
            **{name: own[name] for name in ("asked", "scored", "unreadable", "unanswered")},
            "answer_mean": own["sums"][0] / own["scored"] if own["scored"] else None,
            "reference_mean": own["sums"][1] / own["scored"] if own["scored"] else None,
            "ratio_percent": 100 * own["sums"][0] / own["sums"][1] if own["scored"] else None,
        }
        for (set_name, model, decoding), own in groups.items()
    ]
