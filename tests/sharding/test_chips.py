import importlib.util
from types import SimpleNamespace

import pytest

from atkd_jax.errors import InputError
from atkd_jax.sharding import chips
from atkd_jax.training.peaks import peak_of


def test_a_topology_is_a_kind_and_extents():
    chip, extents = chips.parse_topology("v5p:4x4x8")
    assert (chip.kind, extents) == ("v5p", (4, 4, 8))


@pytest.mark.parametrize("name", ["v5p", "v5p:4", "v9:4x4", "4x4", "v5e:4x4x4x4", "v5e:ax4"])
def test_another_name_is_refused(name):
    with pytest.raises(InputError, match=r"topology must be a kind of TPU among v5e, v5p, v6e, a colon and how many"):
        chips.parse_topology(name)


def test_without_the_compiler_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"install it with `pip install 'atkd-jax\[tpu-plan\]'`"):
        chips.topology_devices("v5e:4x4")


@pytest.mark.parametrize(("kind", "device_kind"), [("v5e", "TPU v5 lite"), ("v5p", "TPU v5"), ("v6e", "TPU v6 lite")])
def test_peaks_are_those_that_a_run_divides_by(kind, device_kind):
    device = SimpleNamespace(platform="tpu", device_kind=device_kind)
    assert peak_of([device]).flops_per_second == chips.CHIPS[kind].flops_per_second


@pytest.mark.parametrize(("kind", "gigahertz"), [("v5e", 1.5), ("v5p", 1.75), ("v6e", 1.75)])
def test_the_clock_is_a_plausible_one(kind, gigahertz):
    assert chips.CHIPS[kind].clock_hz == pytest.approx(gigahertz * 1e9, rel=0.01)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the extra tpu-plan")
def test_the_compiler_knows_topologies():
    devices = chips.topology_devices("v5e:4x4")
    assert len(devices) == 16
    assert {tuple(device.coords) for device in devices} == {(x, y, 0) for x in range(4) for y in range(4)}
    with pytest.raises(InputError, match=r"topology v5e:3x5: the TPU's compiler does not know it"):
        chips.topology_devices("v5e:3x5")
