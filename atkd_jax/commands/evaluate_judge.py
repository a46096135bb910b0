"""The part of `launch.py evaluate` that has a judge score the answers which stand in the run directory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from atkd_jax.commands.evaluate_instructions import ANSWERS
from atkd_jax.commands.progress_line import progress_line
from atkd_jax.commands.run_directory import write_json
from atkd_jax.config import Config
from atkd_jax.data.jsonl import text_lines
from atkd_jax.errors import InputError
from atkd_jax.evaluation.judge import Case, digest, estimated_tokens, make_cases, summarise
from atkd_jax.interop.openai_client import EndpointError, OpenAIClient, api_key_from


def check_judge(config: Config) -> None:
    """Raises InputError where what the judge needs is not set, before anything long starts."""
    own = config.evaluation.judge
    for key, value in (("endpoint", own.endpoint), ("model", own.model)):
        if not value:
            raise InputError(f"command line: --judge needs evaluation.judge.{key} to be set; {value!r} came.")
    api_key_from(own.api_key_variable)
    if (own.input_price is None) != (own.output_price is None) or (
        own.max_cost is not None and own.input_price is None
    ):
        raise InputError(
            "evaluation.judge: input_price and output_price go together, and max_cost needs them; set all that apply."
        )


def judge_answers(config: Config, *, confirmed: bool, console: Console) -> None:
    """Asks about every answer that has no reply yet, and keeps transcripts in judge.jsonl and sums in judge.json.

    Raises:
        InputError: There are no answers, the cost is neither confirmed nor within `max_cost`, or the endpoint refuses.
    """
    own = config.evaluation.judge
    cases: dict[str, tuple[Case, dict[str, Any]]] = {}
    for case in _cases(config):
        request = case.request(model=own.model, max_output_tokens=own.max_output_tokens)
        cases[digest({"case": case.facts(), **request})] = case, request
    path = config.run_dir / "judge.jsonl"
    kept = {line["digest"]: line for line in _read_transcripts(path)}
    open_digests = [name for name in cases if kept.get(name, {}).get("reply") is None]
    if open_digests:
        _require_consent(config, [cases[name][1] for name in open_digests], confirmed=confirmed, console=console)
        with path.open("a", encoding="utf-8") as file, _client(config) as client:
            replies = client.post_all("chat/completions", (cases[name][1] for name in open_digests))
            with progress_line(console, "judged", total=len(open_digests)) as on_progress:
                for done, (number, reply) in enumerate(replies, start=1):
                    name = open_digests[number]
                    kept[name] = _transcript(name, cases[name][0], cases[name][1], reply)
                    file.write(json.dumps(kept[name], ensure_ascii=False) + "\n")
                    file.flush()
                    on_progress(done)
    sums = summarise(kept[name] for name in cases)
    write_json(config.run_dir / "judge.json", {"judge": own.model, "both_orders": own.both_orders, "results": sums})
    console.print(_table(sums, own.model))
    lost = sum(line["unreadable"] + line["unanswered"] for line in sums)
    if lost:
        console.print(
            f"{lost:,} of {len(cases):,} have no scores and are in no sum; the same command asks the unanswered."
        )


def _cases(config: Config) -> list[Case]:
    own = config.evaluation.judge
    folder = config.run_dir / ANSWERS
    cases: list[Case] = []
    for path in sorted(folder.glob("*/*.jsonl")):
        model, _, decoding = path.stem.rpartition(".")
        if decoding in own.decodings:
            records = [json.loads(line) for line in text_lines(path.read_text(encoding="utf-8"))]
            cases += make_cases(
                records[: own.max_examples],
                set_name=path.parent.name,
                model=model,
                decoding=decoding,
                both_orders=own.both_orders,
            )
    if not cases:
        raise InputError(
            f"judge: there must be answers to score, but {folder} holds none of evaluation.judge.decodings="
            f"{list(own.decodings)}; let evaluation.instructions.sets be answered first."
        )
    return cases


def _client(config: Config) -> OpenAIClient:
    own = config.evaluation.judge
    return OpenAIClient(
        str(own.endpoint),
        api_key=api_key_from(own.api_key_variable),
        attempts=own.attempts,
        timeout_seconds=own.timeout_seconds,
        max_in_flight=own.max_in_flight,
    )


def _require_consent(config: Config, requests: Sequence[dict[str, Any]], *, confirmed: bool, console: Console) -> None:
    own = config.evaluation.judge
    sent, received = estimated_tokens(requests)
    line = (
        f"judge: {len(requests):,} requests to {own.model} at {own.endpoint}, about {sent:,} tokens to send and at "
        f"most {received:,} to come back"
    )
    cost = None
    if own.input_price is not None and own.output_price is not None:
        cost = (sent * own.input_price + received * own.output_price) / 1e6
        line += f", at most about {cost:,.2f} at the prices set"
    console.print(line, highlight=False, soft_wrap=True)
    if confirmed or (cost is not None and own.max_cost is not None and cost <= own.max_cost):
        return
    what = "no prices are set" if cost is None else f"the estimated cost is {cost:,.2f} and max_cost {own.max_cost}"
    raise InputError(
        f"judge: a cost must be agreed to before it starts, but {what}; add --yes, or set evaluation.judge's prices "
        "and max_cost."
    )


def _transcript(
    name: str, case: Case, request: dict[str, Any], reply: dict[str, Any] | EndpointError
) -> dict[str, Any]:
    line = {"digest": name, **case.facts(), "messages": request["messages"]}
    if isinstance(reply, EndpointError):
        return line | {"reply": None, "error": str(reply)}
    try:
        text = reply["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        text = None
    if not isinstance(text, str):
        return line | {"reply": json.dumps(reply), "scores": None, "error": "the answer has no text"}
    return line | {"reply": text, "scores": case.scores(text), "usage": reply.get("usage")}


def _read_transcripts(path: Path) -> list[dict[str, Any]]:
    """The lines of an earlier call; one that a stop cut off is taken out of the file."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = [line for line in text_lines(text) if line.endswith("\n")]
    if len("".join(lines)) < len(text):
        path.write_text("".join(lines), encoding="utf-8")
    return [json.loads(line) for line in lines]


def _table(sums: Sequence[dict[str, Any]], judge: str) -> Table:
    table = Table(title=f"Scores by {judge}, 1 to 10", title_justify="left")
    for heading in ("set", "model", "decoding"):
        table.add_column(heading)
    for heading in ("answers", "references", "ratio of sums", "scored", "unreadable", "unanswered"):
        table.add_column(heading, justify="right")
    for line in sums:
        numbers = [line["answer_mean"], line["reference_mean"], line["ratio_percent"]]
        shown = ["-" if number is None else f"{number:.2f}" for number in numbers]
        counts = [str(line[name]) for name in ("scored", "unreadable", "unanswered")]
        table.add_row(line["set"], line["model"], line["decoding"], *shown[:2], f"{shown[2]}%", *counts)
    return table
