import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from atkd_jax.models import Decoder, DecoderConfig, SequenceClassifier, TextScorer


def test_the_student_is_small_and_padding_does_not_reach_it():
    model = TextScorer(1024, 5, width=24, rngs=nnx.Rngs(params=0))
    assert 25_000 < sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model))) < 31_000
    tokens = jnp.array([[5, 9, 7]])
    longer = jnp.pad(tokens, ((0, 0), (0, 4)))
    np.testing.assert_allclose(model(tokens), model(longer), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "family",
    [{}, {"norm": "layer", "positions": "learned", "max_position": 8, "embed_width": 6, "gated_mlp": False}],
    ids=["as LLaMA", "as OPT"],
)
def test_the_teachers_head_reads_the_last_token_alone(family):
    shape = {"vocab_size": 11, "width": 8, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "head_dim": 4}
    config = DecoderConfig(**shape, mlp_width=8, **family)
    decoder = Decoder(config, rngs=nnx.Rngs(params=0))
    model = SequenceClassifier(decoder, 3, rngs=nnx.Rngs(params=1))
    tokens, lengths = jnp.array([[1, 2, 3, 0, 0], [4, 5, 6, 7, 8]]), jnp.array([3, 5])
    logits = jax.jit(model)(tokens, lengths)
    alone = model.head(decoder.hidden_states(tokens[:1, :3])[:, -1])
    np.testing.assert_allclose(logits[:1], alone, rtol=1e-5, atol=1e-6)
    other = tokens.at[0, 3:].set(9)
    np.testing.assert_allclose(jax.jit(model)(other, lengths), logits, rtol=1e-6)
