import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from atkd_jax.models import Decoder, DecoderConfig
from atkd_jax.teachers import teacher_signal

CONFIG = DecoderConfig(vocab_size=20, width=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8, mlp_width=24)


@pytest.mark.parametrize("microbatches", [1, 3])
def test_equals_the_teachers_own_log_softmax(microbatches):
    teacher = Decoder(CONFIG, rngs=nnx.Rngs(params=0))
    graphdef, params = nnx.split(teacher)
    keys = jax.random.split(jax.random.key(0), 3)
    shape = (microbatches, 2, 7)
    tokens, targets = (jax.random.randint(key, shape, 0, 20) for key in keys[:2])
    mask = jax.random.bernoulli(keys[2], 0.5, shape)
    batch = {
        "tokens": tokens,
        "positions": jnp.broadcast_to(jnp.arange(7), shape),
        "segment_ids": jnp.ones(shape, jnp.int32),
    }
    arguments = {"batch": batch, "targets": targets, "mask": mask, "vocab_size": 20}
    signal = teacher_signal(graphdef, params, **arguments, with_target_log_probs=True)
    for part in range(microbatches):
        logits = np.asarray(teacher(tokens[part]), np.float64)
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        expected = np.take_along_axis(log_probs, np.asarray(targets[part])[..., None], -1)[..., 0]
        np.testing.assert_allclose(
            signal.target_log_probs[part], np.where(mask[part], expected, 0.0), rtol=1e-4, atol=1e-6
        )
        np.testing.assert_allclose(teacher.logits(signal.hidden[part]), logits, rtol=1e-4, atol=1e-5)
    spared = teacher_signal(graphdef, params, **arguments, with_target_log_probs=False)
    np.testing.assert_allclose(spared.hidden, signal.hidden, rtol=1e-5, atol=1e-6)
    assert not spared.target_log_probs.any()
