"""Whole training steps: ours beside TRL's and Tunix's trainers, beside the machine's own products, and how they scale.

`python -m benchmarks.training --trl_python .venv-trl/bin/python --tunix_python .venv-tunix/bin/python`; what the two
environments need stands in `benchmarks/training_trl.txt` and `benchmarks/training_tunix.txt`. See docs/throughput.md.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from atkd_jax.environment import describe_environment
from benchmarks.training_race import Race, Side, race
from benchmarks.training_scaling import measure_devices, measure_lengths
from benchmarks.training_workload import prepare_workload, read_workload

MISSING = "left out: name the interpreter of an environment with benchmarks/training_{0}.txt by --{0}_python"


@dataclass(frozen=True)
class Options:
    """Seconds and memory of whole distillation steps on CPU, float32, forward KL."""

    rows: int = 4
    """Rows of a batch."""
    length: int = 512
    """Tokens of a row."""
    layers: int = 8
    """How many of the teacher's 30 layers the student keeps."""
    pairs: int = 3
    """How many pairs of turns are counted, after one that is not."""
    trl_python: Path | None = None
    """An interpreter that has what benchmarks/training_trl.txt names; TRL is left out without it."""
    tunix_python: Path | None = None
    """Likewise, benchmarks/training_tunix.txt."""
    devices: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of CPU devices that the step is measured on."""
    lengths: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8192)
    """Lengths of rows that the step is measured with."""
    cache_dir: Path = Path("~/.cache/atkd_jax")
    """Where the teacher and the text are kept."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/benchmarks/training")
    """Where the workload, the logs, training.json and training.md go."""


def main() -> None:
    """Measures, prints and keeps."""
    options = tyro.cli(Options, prog="python -m benchmarks.training")
    path = prepare_workload(
        options.out.absolute() / f"workload-{options.layers}",
        cache_dir=options.cache_dir.expanduser(),
        layers=options.layers,
        rows=options.rows,
        length=options.length,
    )
    facts: dict[str, Any] = {"environment": describe_environment(devices=["cpu"]), "races": {}, "versions": {}}
    facts |= {"rows": options.rows, "length": options.length, "step_flops": read_workload(path).step_flops()}
    for name, command in _others(options, path).items():
        found, versions = _raced(name, command, path, options)
        facts["races"][name], facts["versions"][name] = asdict(found), versions
        _say(f"{name}: {found.speed_ratio:.2f} times our seconds")
    for name, interpreter in (("trl", options.trl_python), ("tunix", options.tunix_python)):
        if interpreter is None:
            _say(f"{name} was " + MISSING.format(name))
    facts["devices"] = measure_devices(path, options.devices)
    facts["lengths"] = measure_lengths(path, options.lengths)
    (options.out / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
    text = tables(facts)
    (options.out / "training.md").write_text(text)
    _say(text)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _others(options: Options, path: Path) -> dict[str, Sequence[str]]:
    """Returns the commands of the sides that ours is compared with, ours with ATKD among them."""
    found: dict[str, Sequence[str]] = {"ours, ATKD": _module(sys.executable, "ours", path, "atkd")}
    if options.trl_python is not None:
        found["TRL DistillationTrainer"] = _module(options.trl_python, "trl", path, "distillation")
        found["TRL GKDTrainer"] = _module(options.trl_python, "trl", path, "gkd")
    if options.tunix_python is not None:
        found["Tunix DistillationTrainer"] = _module(options.tunix_python, "tunix", path)
    return found


def _module(python: Path | str, name: str, *words: object) -> Sequence[str]:
    # An environment's interpreter is a link, which must not be followed.
    python = Path(python).absolute() if isinstance(python, Path) else python
    return [str(python), "-m", f"benchmarks.training_{name}", *map(str, words)]


def _raced(name: str, command: Sequence[str], path: Path, options: Options) -> tuple[Race, dict[str, str]]:
    log = options.out / f"{name.replace(' ', '-').replace(',', '')}.log"
    ours = _module(sys.executable, "ours", path, "forward_kl")
    with Side("ours", ours, log=options.out / "ours.log") as one, Side(name, command, log=log) as other:
        found = race(one, other, pairs=options.pairs, step_flops=read_workload(path).step_flops())
        return found, other.about.get("versions", {})


def tables(facts: dict[str, Any]) -> str:
    """Returns the results as Markdown."""
    tokens = facts["rows"] * facts["length"]
    races = [
        (
            name,
            f"{found['theirs']['seconds']:.2f}",
            f"{found['ours']['seconds']:.2f}",
            f"{tokens / found['theirs']['seconds']:.0f}",
            f"{found['speed_ratio']:.2f}",
            f"{found['theirs']['peak_gib']:.2f}",
            f"{found['memory_ratio']:.2f}",
            f"{found['matmul_fraction']:.2f}",
            f"{found['theirs']['first_loss']:.4f}",
        )
        for name, found in facts["races"].items()
    ]
    head = (
        "beside ours|s a step|ours, s|tokens/s|their s / ours|peak GiB|our peak / theirs|ours of the matmul|first loss"
    )
    devices = [
        (
            case["devices"],
            f"{case['work_per_device'] * case['devices'] / facts['devices'][0]['work_per_device']:.4f}",
            f"{case['microseconds_per_token']:.0f}",
            f"{case['temporary_gib_per_device']:.2f}",
        )
        for case in facts["devices"]
    ]
    lengths = [
        (
            case["length"],
            case["rows"],
            f"{case['microseconds_per_token']:.0f}",
            f"{case['flops_per_token'] / 1e6:.0f}",
            f"{case['attention_share_of_teacher']:.0%}",
            f"{case['matmul_fraction']:.2f}",
            f"{case['temporary_gib_per_device']:.2f}",
        )
        for case in facts["lengths"]
    ]
    head_of_lengths = ["length", "rows", "us/token", "MFLOP/token", "attention's share", "of the matmul"]
    head_of_lengths.append("temporary GiB")
    return "\n".join(
        [
            _table(head, races),
            _table(["devices", "work a device x devices", "us/token", "temporary GiB a device"], devices),
            _table(head_of_lengths, lengths),
        ]
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


if __name__ == "__main__":
    main()
