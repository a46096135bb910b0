"""A study's results as CSV, JSON and Markdown."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from atkd_jax.analysis.claims import RULE, Verdict
from atkd_jax.analysis.paired import Comparison, Spread
from atkd_jax.analysis.results import Result
from atkd_jax.analysis.summary import COMPARED, Summary

# In the order of the tables: name in the files, title, and how many digits behind the point.
MEASURES = {
    "perplexity": ("perplexity", 2),
    "bits_per_byte": ("bits per byte", 4),
    "forward_kl": ("forward KL", 4),
    "reverse_kl": ("reverse KL", 4),
    "top1_agreement": ("top-1 agreement", 4),
    "rouge_l": ("ROUGE-L", 2),
    "gradient_share_target_kd": ("gradient by TKD", 3),
    "gradient_share_diversity_kd": ("gradient by DKD", 3),
    "gradient_share_easy": ("gradient by easy", 3),
    "gradient_share_hard": ("gradient by hard", 3),
    "tokens_per_second": ("tokens/s", 0),
}
SPREAD_NOTE = "Mean ± standard deviation over seeds, on held-out examples."
COMPARISON_NOTE = "Mean difference over the seeds that both have; p: paired t-test, two-sided, uncorrected."


def as_csv(results: Sequence[Result]) -> str:
    """Returns a line per run."""
    axes = list(dict.fromkeys(axis for result in results for axis in result.cell.labels))
    measures = list(dict.fromkeys(name for result in results for name in result.measures))
    teachers = list(dict.fromkeys(name for result in results for name in result.teacher))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    of_teacher = [f"teacher_{name}" for name in teachers]
    writer.writerow(["name", *axes, "seed", "prepared", *measures, *of_teacher, "seconds", "peak_bytes"])
    for each in results:
        cell = each.cell
        labels = [cell.labels.get(axis, "") for axis in axes]
        numbers = [each.measures.get(name, "") for name in measures] + [each.teacher.get(name, "") for name in teachers]
        took = [each.seconds, each.peak_bytes or ""]
        writer.writerow([cell.name, *labels, cell.seed, int(cell.is_prepared), *numbers, *took])
    return text.getvalue()


def as_json(
    results: Sequence[Result],
    summaries: Sequence[Summary],
    failed: Mapping[str, str],
    verdicts: Sequence[Verdict] = (),
    *,
    fingerprints: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Returns runs, summaries, claims and failures as JSON can hold them; a number that is not finite becomes None."""
    return _finite(
        {
            "runs": [
                {"name": cell.name, "seed": cell.seed, "labels": dict(cell.labels), "needs": list(cell.needs)}
                | {"inputs": (fingerprints or {}).get(cell.key), "prepared": cell.is_prepared}
                | {"measures": own, "teacher": teacher, "seconds": seconds}
                for cell, own, teacher, seconds, _ in results
            ],
            "summary": [
                {
                    **each._asdict(),
                    "labels": dict(each.labels),
                    "spreads": {name: value._asdict() for name, value in each.spreads.items()},
                    "comparisons": {name: value._asdict() for name, value in each.comparisons.items()},
                }
                for each in summaries
            ],
            "claims": [
                each._asdict() | {"comparison": None if each.comparison is None else each.comparison._asdict()}
                for each in verdicts
            ],
            "failed": dict(failed),
        }
    )


def as_markdown(summaries: Sequence[Summary], failed: Mapping[str, str], verdicts: Sequence[Verdict] = ()) -> str:
    """Returns the tables: mean and deviation over seeds, the differences from the references, and the claims."""
    lines = [*_markdown(result_table(summaries), texts=2), "", SPREAD_NOTE, ""]
    compared = comparison_table(summaries)
    if compared.rows:
        lines += [*_markdown(compared, texts=2), "", COMPARISON_NOTE, ""]
    if verdicts:
        claims = claims_table(verdicts)
        sentences = [f"- **{each.name}: {each.verdict}.** {each.sentence}" for each in verdicts]
        lines += [*sentences, "", *_markdown(claims, texts=3), "", RULE, ""]
    lines += [f"Failed: {key}: {why}." for key, why in failed.items()]
    return "\n".join(lines).rstrip() + "\n"


class TextTable(NamedTuple):
    """A table's headings and rows, the texts of whose first columns are words and of the others numbers."""

    headings: list[str]
    rows: list[list[str]]


def result_table(summaries: Sequence[Summary]) -> TextTable:
    """Returns a row per cell: its seeds, and mean and standard deviation of each measure."""
    present = _present(summaries)
    rows = []
    for each in sorted(summaries, key=lambda each: each.is_prepared):
        seeds = max((value.n for value in each.spreads.values()), default=0)
        cells = [_spread_text(each.spreads.get(name), MEASURES[name][1]) for name in present]
        rows.append([each.name + (" (prepared)" if each.is_prepared else ""), str(seeds), *cells])
    return TextTable(["cell", "seeds", *(MEASURES[name][0] for name in present)], rows)


def comparison_table(summaries: Sequence[Summary]) -> TextTable:
    """Returns a row per cell that is compared with another: the mean differences and their p-values."""
    shown = [name for name in _present(summaries) if name in COMPARED]
    rows = []
    for each in summaries:
        if each.comparisons:
            cells = [_comparison_text(each.comparisons.get(name), MEASURES[name][1]) for name in shown]
            pairs = max(comparison.n for comparison in each.comparisons.values())
            rows.append([each.name, each.reference or "", *cells, str(pairs)])
    return TextTable(["cell", "less", *(f"{MEASURES[name][0]} (p)" for name in shown), "pairs"], rows)


def claims_table(verdicts: Sequence[Verdict]) -> TextTable:
    """Returns a row per claim: the verdict, what was tested, its mean and p-value."""
    rows = []
    for each in verdicts:
        found = each.comparison
        numbers = ["", "", "0"]
        if found is not None:
            p_value = "no test" if found.p_value is None else f"{found.p_value:.3f}"
            numbers = [f"{found.mean_difference:+,.4g}", p_value, str(found.n)]
        tested = each.tested + (f" ({each.why})" if each.why else "")
        rows.append([each.name, each.verdict, tested, *numbers])
    return TextTable(["claim", "verdict", "tested", "mean", "p", "seeds"], rows)


def _present(summaries: Sequence[Summary]) -> list[str]:
    return [name for name in MEASURES if any(name in each.spreads for each in summaries)]


def _markdown(table: TextTable, *, texts: int) -> list[str]:
    return [_row(table.headings), _rule(texts, len(table.headings) - texts), *map(_row, table.rows)]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(texts: int, numbers: int) -> str:
    return "|" + "---|" * texts + "---:|" * numbers


def _spread_text(value: Spread | None, digits: int) -> str:
    if value is None:
        return ""
    text = f"{value.mean:,.{digits}f}"
    return text if value.deviation is None else f"{text} ± {value.deviation:,.{digits}f}"


def _comparison_text(value: Comparison | None, digits: int) -> str:
    if value is None:
        return ""
    p_value = "no test" if value.p_value is None else f"{value.p_value:.3f}"
    return f"{value.mean_difference:+,.{digits}f} ({p_value})"
