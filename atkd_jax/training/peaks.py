"""How fast the devices can multiply matrices at most: known for accelerators, measured for CPUs."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from atkd_jax.sharding.chips import CHIPS

# Dense bfloat16 operations per second of one jax device, by its `device_kind`. A device is a chip, but one of two cores
# on TPU v2, v3 and 7x. Where a vendor names a rate with 2:4 sparsity only, half of it stands here.
_TPUS = {  # Cloud TPU documentation, the page of each version, peak compute per chip
    "TPU v2": 22.5e12,  # 45 of a chip
    "TPU v3": 61.5e12,  # 123 of a chip
    "TPU v4": 275e12,
    "TPU v4 lite": 138e12,  # TPU v4i: Jouppi et al., ISCA 2021, table 1
    **dict.fromkeys(("TPU v5 lite", "TPU v5e"), CHIPS["v5e"].flops_per_second),
    **dict.fromkeys(("TPU v5", "TPU v5p"), CHIPS["v5p"].flops_per_second),
    **dict.fromkeys(("TPU v6 lite", "TPU v6e"), CHIPS["v6e"].flops_per_second),
    "TPU7x": 1153.5e12,  # 2,307 of a chip
}
_GPUS = {  # NVIDIA's data sheet of each, tensor cores with float32 sums
    "Tesla V100-SXM2-16GB": 125e12,  # float16; it has no bfloat16
    "Tesla V100-SXM2-32GB": 125e12,
    "Tesla T4": 65e12,  # float16; it has no bfloat16
    "NVIDIA L4": 121e12,  # 242 with sparsity
    "NVIDIA L40S": 362e12,
    "NVIDIA A10G": 70e12,  # 80 multiprocessors at 1.71 GHz, half an A10's rate with float32 sums
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,  # 1,979 with sparsity
    "NVIDIA H100 PCIe": 756e12,  # 1,513 with sparsity
    "NVIDIA H200": 989e12,  # 1,979 with sparsity
    "NVIDIA GH200 480GB": 989e12,  # 1,979 with sparsity
    "NVIDIA B200": 2250e12,  # an eighth of an HGX B200's 36e15 with sparsity, halved
}
_KNOWN = _TPUS | _GPUS
_SIZES = (1024, 2048)
_REPEATS = 3


class Peak(NamedTuple):
    """What the model's arithmetic is divided by to give MFU.

    Attributes:
        flops_per_second: Of all devices together; None where it is not known.
        source: Where the number is from, or why there is none, as the rest of a sentence.
    """

    flops_per_second: float | None
    source: str


def peak_of(devices: Sequence[Any]) -> Peak:
    """Returns the peak of all these devices.

    The known peaks are those of bfloat16, whatever the arithmetic, so that MFU compares with what others report. CPUs
    are measured, in float32, which takes less than a second; devices of one machine's CPU share its cores.
    """
    kinds = {device.device_kind for device in devices}
    if {device.platform for device in devices} == {"cpu"}:
        if jax.process_count() > 1:
            return Peak(None, "several processes may share the cores of a CPU")
        return Peak(measured_peak(), "the fastest product of two float32 matrices that was measured at the start")
    unknown = sorted(kinds - _KNOWN.keys())
    if unknown:
        return Peak(None, f"the peak of {', '.join(unknown)} is not in the table")
    return Peak(sum(_KNOWN[device.device_kind] for device in devices), "the data sheet, dense bfloat16")


@functools.cache
def measured_peak() -> float:
    """Returns the most float32 operations per second that a product of two square matrices reached on this machine.

    It is measured once in a process, however many runs follow each other there.
    """
    return max(_rate_of(size) for size in _SIZES)


def _rate_of(size: int) -> float:
    square = jnp.full((size, size), 1.0 / size, jnp.float32)
    product = jax.jit(jnp.matmul).lower(square, square).compile()
    product(square, square).block_until_ready()
    seconds = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        product(square, square).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 2.0 * size**3 / min(seconds)
