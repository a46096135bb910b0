"""What a step costs on more devices and in longer rows; each case is a process of its own."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
# One layer, one chunk of tokens and one block of words: without loops XLA's own cost analysis sees all of the work.
LOOPLESS = {"num_layers": 1, "vocab_size": 2048}
TOKENS = 2048
ROWS_OF_DEVICES, LENGTH_OF_DEVICES = 8, 256


def measure_devices(workload: Path, counts: Iterable[int]) -> list[dict[str, Any]]:
    """Measures the step on so many CPU devices, with parameters and rows split over all of them."""
    return [_in_process(workload, "devices", count, devices=count) for count in counts]


def measure_lengths(workload: Path, lengths: Iterable[int]) -> list[dict[str, Any]]:
    """Measures the step on one device in rows of so many tokens, as many rows as hold 2,048 tokens, one at least."""
    return [_in_process(workload, "length", length, devices=1) for length in lengths]


def _in_process(workload: Path, what: str, number: int, *, devices: int) -> dict[str, Any]:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-m", "benchmarks.training_scaling", str(workload), what, str(number)]
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def work_per_device(devices: int) -> float:
    """Returns the operations of one of so many devices in a step without loops, by XLA's cost analysis."""
    import jax
    from flax import nnx

    from atkd_jax.models import Decoder, DecoderConfig
    from benchmarks.training_ours import compile_step

    shape = {"width": 576, "num_heads": 9, "num_kv_heads": 3, "head_dim": 64, "mlp_width": 1536}
    config = DecoderConfig(**shape, **LOOPLESS, tie_embeddings=True)
    models = [Decoder(config, rngs=nnx.Rngs(number)) for number in range(2)]
    rows = (ROWS_OF_DEVICES, LENGTH_OF_DEVICES)
    compiled = compile_step(*models, "forward_kl", rows, jax.devices()[:devices], chunk_tokens=TOKENS).program
    return compiled.cost_analysis()["flops"]


def _devices(path: Path, count: int) -> dict[str, Any]:
    found = _timed(path, rows=ROWS_OF_DEVICES, length=LENGTH_OF_DEVICES)
    return {"devices": count, "work_per_device": work_per_device(count)} | found


def _length(path: Path, length: int) -> dict[str, Any]:
    return {"length": length} | _timed(path, rows=max(1, TOKENS // length), length=length)


def _timed(path: Path, *, rows: int, length: int) -> dict[str, Any]:
    import jax
    import numpy as np

    from atkd_jax.models.flops import forward_flops
    from benchmarks.training_ours import Product, batch_of, compile_step, load_models
    from benchmarks.training_workload import read_workload

    workload = dataclasses.replace(read_workload(path), rows=rows, length=length)
    # Where the workload is smaller than the case, its text is read again from the start.
    tokens = np.resize(np.load(workload.batches), (rows, length))
    teacher, student = load_models(workload)
    compiled = compile_step(teacher, student, "forward_kl", tokens.shape, jax.devices())
    product, state, seconds, fractions = Product(), compiled.state, [], []
    for _ in range(3):
        before = product.flops_per_second()
        began = time.perf_counter()
        state, metrics = compiled.step(state, batch_of(tokens))
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - began)
        fractions.append(workload.step_flops() / seconds[-1] / ((before + product.flops_per_second()) / 2))
    best = min(range(1, 3), key=seconds.__getitem__)
    # Of the teacher's forward pass without its head: what grows with the row.
    square = 1 - forward_flops(teacher.config, length=1).layers / forward_flops(teacher.config, length=length).layers
    return {
        "rows": rows,
        "seconds": seconds[best],
        "microseconds_per_token": 1e6 * seconds[best] / (rows * length),
        "matmul_fraction": fractions[best],
        "flops_per_token": workload.step_flops() / (rows * length),
        "attention_share_of_teacher": square,
        "temporary_gib_per_device": compiled.program.memory_analysis().temp_size_in_bytes / 2**30,
    }


if __name__ == "__main__":
    measure = {"devices": _devices, "length": _length}[sys.argv[2]]
    print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[3]))))
