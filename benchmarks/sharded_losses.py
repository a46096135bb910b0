"""The linear loss over several CPU devices against one device, in a process that has them."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from atkd_jax import losses
from benchmarks.measuring import Measurement, measure, runner, temporary_gib

_ON_ONE = "linear_atkd on one device"


def measure_sharded(
    *, tokens: int, vocab: int, width: int, repeats: int, devices: int
) -> Iterator[tuple[str, Measurement]]:
    """Yields the cost of `linear_atkd` with its tokens or its words over so many CPU devices.

    Args:
        tokens: Counted tokens, all devices together.
        vocab: Columns of the heads.
        width: Of the hidden states.
        repeats: How many pairs are measured.
        devices: How many there are; they share this machine's cores.
    """
    settings = {"tokens": tokens, "vocab": vocab, "width": width, "repeats": repeats, "devices": devices}
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-m", "benchmarks.sharded_losses", *words]
    done = subprocess.run(command, env=os.environ | {"XLA_FLAGS": flags}, stdout=subprocess.PIPE, text=True, check=True)
    for name, row in json.loads(done.stdout).items():
        yield name, Measurement(**row)


def main(*, tokens: int, vocab: int, width: int, repeats: int, devices: int) -> None:
    """Measures, and prints JSON."""
    from benchmarks.losses import linear_arrays

    hidden, heads, targets = linear_arrays(tokens, vocab, width)
    arrays = (hidden[0], heads[0], hidden[1], heads[1], targets)
    one = jax.jit(jax.value_and_grad(_loss, argnums=(0, 1))).lower(*arrays).compile()
    on_one = runner(one, jax.device_put(arrays, jax.devices()[0]))
    found = {}
    for shape in ((devices, 1), (1, devices)):
        mesh = jax.make_mesh(shape, ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
        rows, columns = PartitionSpec("data"), PartitionSpec(None, "tensor")
        specs = (rows, columns, rows, columns, rows)
        split = jax.shard_map(_sharded_loss, mesh=mesh, in_specs=specs, out_specs=PartitionSpec())
        placed = tuple(
            jax.device_put(array, NamedSharding(mesh, spec)) for array, spec in zip(arrays, specs, strict=True)
        )
        program = jax.jit(jax.value_and_grad(split, argnums=(0, 1))).lower(*placed).compile()
        name = f"linear_atkd, {'tokens' if shape[1] == 1 else 'words'} over {devices} devices"
        pair = {"reference": on_one, "reference_name": _ON_ONE}
        found[name] = measure(runner(program, placed), **pair, repeats=repeats, temporary_gib=temporary_gib(program))
    print(json.dumps({name: dataclasses.asdict(row) for name, row in found.items()}))


def _loss(student_hidden, student_head, teacher_hidden, teacher_head, targets, **axes) -> jax.Array:
    student = {"student_hidden": student_hidden, "student_head": student_head}
    teacher = {"teacher_hidden": teacher_hidden, "teacher_head": teacher_head}
    mask = jnp.ones(np.shape(targets), bool)
    return losses.linear_atkd(**student, **teacher, targets=targets, mask=mask, **axes)[0]


def _sharded_loss(*arrays) -> jax.Array:
    return _loss(*arrays, vocab_axis="tensor", token_axes=("data",))


if __name__ == "__main__":
    tyro.cli(main)
