import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from atkd_jax.models import Decoder, DecoderConfig
from atkd_jax.objectives import next_token_targets
from atkd_jax.teachers import quantize_teacher

pytest.importorskip("qwix")
CONFIG = DecoderConfig(vocab_size=24, width=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8, mlp_width=24)


@pytest.mark.parametrize("changes", [{}, {"tie_embeddings": True, "logit_softcap": 2.0}])
def test_the_divergence_is_that_of_the_two_models_on_the_counted_tokens(changes):
    config = dataclasses.replace(CONFIG, **changes)
    model, exact = (Decoder(config, rngs=nnx.Rngs(params=0)) for _ in range(2))
    for each in (model, exact):
        nnx.update(each, jax.tree.map(lambda leaf: 4.0 * leaf, nnx.state(each)))
    tokens = jax.random.randint(jax.random.key(0), (2, 9), 0, 20)
    segments = jnp.ones((2, 9), jnp.int32).at[1, 5:].set(0)
    batch = {
        "tokens": tokens,
        "positions": jnp.broadcast_to(jnp.arange(9), (2, 9)),
        "segment_ids": segments,
        "loss_mask": jnp.broadcast_to(jnp.arange(9) > 2, (2, 9)) & (segments > 0),
    }
    found = quantize_teacher(model, "int4", batch=batch, vocab_size=20, chunk_tokens=3)
    inputs = {name: batch[name] for name in ("tokens", "positions", "segment_ids")}
    p, q = (jax.nn.log_softmax(each(**inputs)[..., :20]) for each in (exact, model))
    _, mask = next_token_targets(tokens=tokens, segment_ids=segments, loss_mask=batch["loss_mask"])
    expected = np.sum(np.exp(p) * (p - q), axis=-1)[np.asarray(mask)].mean()
    assert expected > 1e-4
    np.testing.assert_allclose(found.forward_kl, expected, rtol=1e-3)
    assert found.tokens == int(mask.sum())
    assert found.bytes < found.float_bytes / 2
    assert f"{found.tokens} tokens" in found.sentence()
