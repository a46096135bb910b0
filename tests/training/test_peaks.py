from types import SimpleNamespace

import jax

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
