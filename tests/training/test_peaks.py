from types import SimpleNamespace

import jax
import pytest
from jax.experimental.pallas import tpu as pltpu

from atkd_jax.training import peaks
from atkd_jax.training.peaks import measured_peak, peak_of


def device(kind, platform="tpu"):
    return SimpleNamespace(device_kind=kind, platform=platform)


def test_accelerators_are_looked_up_and_added():
    assert peak_of([device("TPU v5p")] * 4).flops_per_second == 4 * 459e12
    mixed = peak_of([device("NVIDIA H200", "gpu"), device("NVIDIA A100-SXM4-80GB", "gpu")])
    assert mixed.flops_per_second == 989e12 + 312e12
    assert "bfloat16" in mixed.source


def test_an_unknown_accelerator_has_no_peak_and_is_named():
    found = peak_of([device("TPU v5p"), device("Abacus 9")])
    assert found.flops_per_second is None
    assert found.source == "the peak of Abacus 9 is not in the table"


def test_a_cpu_is_measured_once_for_all_of_its_devices(monkeypatch):
    monkeypatch.setattr(peaks, "measured_peak", lambda: 7.0)
    assert peak_of(jax.devices()).flops_per_second == 7.0


def test_processes_that_may_share_a_cpu_have_no_peak(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    found = peak_of(jax.devices())
    assert found.flops_per_second is None
    assert found.source == "several processes may share the cores of a CPU"


def test_a_measured_peak_is_one_that_some_cpu_could_have():
    assert 1e8 < measured_peak() < 1e15


@pytest.mark.parametrize(
    ("kind", "chip", "devices"),
    [
        ("TPU v2", "TPU_V2", 2),
        ("TPU v4", "TPU_V4", 1),
        ("TPU v4 lite", "TPU_V4I", 1),
        ("TPU v5e", "TPU_V5E", 1),
        ("TPU v5p", "TPU_V5P", 1),
        ("TPU v6e", "TPU_V6E", 1),
        ("TPU7x", "TPU_7X", 2),
    ],
)
def test_tpus_have_the_peak_that_jax_knows_of(kind, chip, devices):
    """All but v3, for which jax has 140 and the documentation 123."""
    info = pltpu.get_tpu_info_for_chip(pltpu.ChipVersion[chip], 1)
    cores = pltpu.ChipVersion[chip].num_physical_tensor_cores_per_chip
    assert devices * peak_of([device(kind)]).flops_per_second == pytest.approx(
        cores * info.bf16_ops_per_second, rel=0.025
    )


@pytest.mark.parametrize(
    ("kind", "multiprocessors", "operations_per_cycle", "gigahertz"),
    [
        ("Tesla V100-SXM2-16GB", 80, 1024, 1.53),
        ("Tesla T4", 40, 1024, 1.59),
        ("NVIDIA L4", 58, 1024, 2.04),
        ("NVIDIA L40S", 142, 1024, 2.52),
        ("NVIDIA A10G", 80, 512, 1.71),
        ("NVIDIA A100-SXM4-80GB", 108, 2048, 1.41),
        ("NVIDIA H100 80GB HBM3", 132, 4096, 1.83),
        ("NVIDIA H100 PCIe", 114, 4096, 1.62),
        ("NVIDIA B200", 148, 8192, 1.85),
    ],
)
def test_gpus_have_the_peak_of_their_tensor_cores(kind, multiprocessors, operations_per_cycle, gigahertz):
    expected = multiprocessors * operations_per_cycle * gigahertz * 1e9
    assert peak_of([device(kind, "gpu")]).flops_per_second == pytest.approx(expected, rel=0.015)
