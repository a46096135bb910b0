"""A plan as tables to be read."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

_GIB = 2.0**30


def print_plan(plan: dict[str, Any], *, console: Console) -> None:
    """Prints a plan, as `summary_of` gives it."""
    console.print(f"{plan['topology']}, {plan['chips']} chips; mesh: {mesh_words(plan['mesh'])}", highlight=False)
    console.print(_memory_table(plan))
    if "memory" in plan:
        console.print(_speed_table(plan))
        console.print(_collectives_table(plan["collectives"]))
    _print_end(plan, console)


def mesh_words(mesh: dict[str, int]) -> str:
    """Returns the axes that have more than one device, such as "data 8, fsdp 16"."""
    return ", ".join(f"{axis} {size}" for axis, size in mesh.items() if size > 1) or "one chip"


def gibibytes(count: float | None) -> str:
    """Returns bytes as "1.23 GiB"."""
    return "unknown" if count is None else f"{count / _GIB:,.2f} GiB"


def _memory_table(plan: dict[str, Any]) -> Table:
    table = Table("Memory of a chip", "", title_justify="left")
    table.columns[1].justify = "right"
    held, memory = plan["held"], plan.get("memory")
    names = {
        "teacher": "teacher's parameters",
        "student": "student's parameters",
        "optimizer": "optimizer's state",
        "batch": "batch",
    }
    for name, words in names.items():
        table.add_row(words, gibibytes(held[name]))
    if memory:
        table.add_row("padding of their layouts", gibibytes(memory["arguments"] - sum(held.values())))
        table.add_row("activations for the backward pass", gibibytes(memory["activations"]))
        table.add_row("other temporaries", gibibytes(memory["temporaries"] - memory["activations"]))
        table.add_row("code", gibibytes(memory["code"]))
    table.add_section()
    table.add_row("needed", gibibytes(plan["needed_bytes"]))
    table.add_row("there is", gibibytes(plan["hbm_bytes"]))
    table.add_row("fits", "yes" if plan["fits"] else "NO")
    return table


def _speed_table(plan: dict[str, Any]) -> Table:
    table = Table("A step", "", "", title_justify="left")
    table.columns[1].justify = "right"
    rows = [
        ("arithmetic of a chip", f"{plan['flops'] / 1e12:,.1f} TFLOP", "matrix products, recomputed ones included"),
        ("traffic with its memory", gibibytes(plan["hbm_traffic_bytes"]), "counted from the compiled instructions"),
        ("computing", f"{plan['cycle_seconds']:.3f} s", "the compiler's cycles, and ours of attention's kernels"),
        ("collectives that block", f"{plan['blocking_collective_seconds']:.3f} s", "bytes over the links' bandwidth"),
        ("step", f"{plan['step_seconds']:.3f} s", "the two together"),
        ("at best", f"{plan['best_seconds']:.3f} s", "data sheet's rates, all collectives hidden"),
        ("tokens per second", f"{plan['tokens_per_second']:,.0f}", f"{plan['batch_tokens']:,} tokens a step"),
        ("MFU", f"{plan['mfu']:.1%}", f"{plan['best_mfu']:.1%} at best"),
    ]
    for row in rows:
        table.add_row(*row)
    return table


def _collectives_table(collectives: list[dict[str, Any]]) -> Table:
    columns = ("Collectives", "over", "in a step", "GiB", "seconds", "largest array")
    table = Table(*columns, title_justify="left")
    for place in (2, 3, 4):
        table.columns[place].justify = "right"
    for each in collectives:
        kind = each["kind"] + (", beside other work" if each["is_async"] else "")
        largest = " x ".join(map(str, each["largest"])) or "scalar"
        size, seconds = f"{each['num_bytes'] / _GIB:,.3f}", f"{each['seconds']:.4f}"
        table.add_row(kind, each["axes"], str(each["count"]), size, seconds, largest)
    return table


def _print_end(plan: dict[str, Any], console: Console) -> None:
    words = f"Compiled in {plan['compile_seconds']:.0f} s by libtpu {plan['libtpu']} under jax {plan['jax']}."
    console.print(words, highlight=False)
    if plan["advice"]:
        console.print("It does not fit. What to change, what helps most first:", highlight=False)
        for line in plan["advice"]:
            console.print(f"  - {line}", highlight=False, soft_wrap=True)
