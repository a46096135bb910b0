import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atkd_jax.analysis.landscape import count_points, look_around

HESSIAN = np.array([[3.0, 0.5, 0.0], [0.5, 1.0, 0.2], [0.0, 0.2, 8.0]])
STEPS = st.floats(0.05, 2.0)


def quadratic(*directions):
    """The loss 1 + x'Hx / 2 along some directions."""

    def loss_at(offsets):
        place = sum(offset * np.asarray(way) for offset, way in zip(offsets, directions, strict=True))
        return 1.0 + 0.5 * place @ HESSIAN @ place

    return loss_at


@given(way=st.lists(st.floats(-2, 2), min_size=3, max_size=3), radius=STEPS, step=STEPS, half=st.integers(1, 6))
def test_a_parabolas_sharpness_is_known(way, radius, step, half):
    found = look_around(quadratic(way), dimensions=1, points=2 * half + 1, radius=radius, curvature_step=step)
    expected = np.asarray(way) @ HESSIAN @ np.asarray(way)
    assert found.loss == 1.0
    assert found.losses[half] == 1.0
    assert found.places.tolist() == pytest.approx(np.linspace(-radius, radius, 2 * half + 1).tolist(), abs=1e-12)
    assert found.rise == pytest.approx(radius**2 * expected / 2, rel=1e-9, abs=1e-12)
    assert found.curvature == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_a_planes_rise_is_over_a_disc_and_its_curvature_the_mean_of_both_directions():
    ways = ([1.0, 0.0, 0.0], [0.0, 0.0, 1.0])
    asked = []
    found = look_around(quadratic(*ways), dimensions=2, points=5, radius=2.0, curvature_step=0.1, on_point=asked.append)
    assert found.losses.shape == (5, 5)
    assert found.losses[4, 2] == pytest.approx(1 + 0.5 * 3 * 4)  # First along the rows.
    assert found.losses[2, 4] == pytest.approx(1 + 0.5 * 8 * 4)
    assert found.rise == pytest.approx(0.5 * 8 * 4)  # A corner, further away than the radius, would have more.
    assert found.curvature == pytest.approx((3 + 8) / 2, rel=1e-6)
    assert asked == list(range(1, count_points(dimensions=2, points=5) + 1))


def test_a_slope_rises_to_one_side():
    found = look_around(lambda offsets: 5 - offsets[0], dimensions=1, points=3, radius=0.5, curvature_step=0.1)
    assert (found.loss, found.rise) == (5, 0.5)
    assert found.curvature == pytest.approx(0, abs=1e-9)


def test_what_is_not_finite_is_none_in_json():
    found = look_around(
        lambda offsets: math.inf if offsets[0] > 0 else 1.0, dimensions=2, points=3, radius=1.0, curvature_step=0.1
    )
    kept = found.to_json()
    assert kept["losses"] == [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [None, None, None]]
    assert (kept["loss"], kept["rise"], kept["places"]) == (1.0, None, [-1.0, 0.0, 1.0])
