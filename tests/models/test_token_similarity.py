import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from atkd_jax import losses
from atkd_jax.models import Decoder, DecoderConfig, TokenSimilarity, logical_axes

VOCAB = 13


@pytest.fixture(scope="module")
def encoder():
    config = DecoderConfig(
        vocab_size=VOCAB, width=8, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=4, mlp_width=8
    )
    return Decoder(config, rngs=nnx.Rngs(params=0))


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_it_teaches_the_soft_labels_of_the_library(encoder, scale):
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, VOCAB, (2, 6)))
    teacher = TokenSimilarity(encoder, scale=scale)
    taught = jax.nn.softmax(teacher.hidden_states(tokens) @ teacher.head_matrix(), axis=-1)[:, :-1]
    of = losses.class_means(embeddings=encoder.embedding[...], labels=jnp.arange(VOCAB), classes=VOCAB)
    expected = jax.nn.softmax(scale * losses.similarity_rows(of=of, rows=tokens[:, 1:]), axis=-1)
    np.testing.assert_allclose(taught, expected, rtol=1e-5)


def test_its_only_weights_are_one_row_a_token_split_as_an_embedding_is(encoder):
    params = nnx.state(TokenSimilarity(encoder), nnx.Param)
    assert [leaf.shape for leaf in jax.tree.leaves(params)] == [(VOCAB, 8)]
    assert list(jax.tree.leaves(logical_axes(params), is_leaf=lambda x: isinstance(x, tuple))) == [("vocab", "embed")]
