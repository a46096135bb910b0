import math

import jax.numpy as jnp
import numpy as np
import pytest

from atkd_jax.config import OptimizerConfig
from atkd_jax.training.optimizer import decayed_parameters, learning_rate_schedule, make_optimizer


def test_schedule_is_a_line_then_a_cosine():
    config = OptimizerConfig(learning_rate=0.4, warmup_steps=5, final_fraction=0.25)
    schedule = learning_rate_schedule(config, steps=25)
    for step in range(26):
        cosine = 0.1 + 0.3 * 0.5 * (1 + math.cos(math.pi * (step - 5) / 20))
        expected = 0.4 * step / 5 if step < 5 else cosine
        assert float(schedule(step)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_run_shorter_than_its_warm_up_still_has_a_schedule(steps):
    schedule = learning_rate_schedule(OptimizerConfig(warmup_steps=10), steps=steps)
    assert all(math.isfinite(float(schedule(step))) for step in range(steps + 1))


def test_only_matrices_decay():
    params = {
        "layers": {"mlp_norm": {"scale": jnp.ones((2, 3))}, "up": {"kernel": jnp.ones((2, 3, 4)), "bias": jnp.ones(4)}}
    }
    assert decayed_parameters(params) == {
        "layers": {"mlp_norm": {"scale": False}, "up": {"kernel": True, "bias": False}}
    }
    optimizer = make_optimizer(OptimizerConfig(weight_decay=0.5, warmup_steps=0, learning_rate=0.1), steps=10)
    zeros = {
        "layers": {
            "mlp_norm": {"scale": jnp.zeros((2, 3))},
            "up": {"kernel": jnp.zeros((2, 3, 4)), "bias": jnp.zeros(4)},
        }
    }
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    np.testing.assert_allclose(updates["layers"]["up"]["kernel"], -0.05, rtol=1e-6)
    assert not updates["layers"]["mlp_norm"]["scale"].any()
    assert not updates["layers"]["up"]["bias"].any()


def test_the_gradient_is_clipped_by_its_global_norm():
    params = {"kernel": jnp.zeros(2)}
    config = OptimizerConfig(clip_norm=1.0, warmup_steps=0, eps=1e3, learning_rate=1.0, b1=0.0, b2=0.0)
    optimizer = make_optimizer(config, steps=10)
    updates, _ = optimizer.update({"kernel": jnp.array([30.0, 40.0])}, optimizer.init(params), params)
    # With eps far above the gradient Adam's update is the clipped gradient / eps.
    np.testing.assert_allclose(updates["kernel"], [-0.6e-3, -0.8e-3], rtol=2e-3)
