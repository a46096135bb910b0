import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from atkd_jax.config import ObjectiveConfig
from atkd_jax.models import Decoder, DecoderConfig
from atkd_jax.objectives import make_objective
from atkd_jax.training.batch_loss import make_batch_loss

ROWS, LENGTH, VOCAB = 4, 6, 12


def test_loss_and_gradient_are_linear_in_the_weights():
    config = DecoderConfig(
        vocab_size=VOCAB, width=8, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=4, mlp_width=8
    )
    (teacher, teacher_params), (student, params) = (nnx.split(Decoder(config, rngs=nnx.Rngs(seed))) for seed in (0, 1))
    batch_loss = make_batch_loss(
        student=student, teacher=teacher, objective=make_objective(ObjectiveConfig()), vocab_size=VOCAB, microbatches=2
    )
    tokens = np.random.default_rng(0).integers(0, VOCAB, (ROWS, LENGTH)).astype(np.int32)
    places = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), tokens.shape)
    segments = (places < 5).astype(np.int32)
    batch = {"tokens": tokens, "positions": places, "segment_ids": segments}
    batch |= {"loss_mask": (places > 1) & (segments > 0)}

    @jax.jit
    def found(params, factors):
        of_batch = batch_loss(params, jnp.zeros((), jnp.int32), teacher_params, batch)
        (lesson,) = of_batch.lessons
        loss = {name: weights * factors[name] for name, weights in lesson.weighting.loss.items()}
        own = lesson._replace(weighting=lesson.weighting._replace(loss=loss))
        return of_batch.value_and_gradient(params, [own]), of_batch.mask, of_batch.is_token

    factors = [(2.0, 3.0), (1.0, 0.0), (0.0, 1.0)]
    both, target, diversity = (found(params, {"target_kd": one, "diversity_kd": other}) for one, other in factors)
    _, mask, is_token = both
    assert mask.shape == (2, ROWS // 2, LENGTH)
    assert int(mask.sum()) == ROWS * 3  # Tokens 2, 3 and 4 are predicted.
    assert int(is_token.sum()) == ROWS * 5
    ((whole, _), gradient), ((one, _), of_one), ((other, _), of_other) = both[0], target[0], diversity[0]
    assert min(float(one), float(other)) > 0
    np.testing.assert_allclose(whole, 2 * one + 3 * other, rtol=1e-5)
    for ours, first, second in zip(*map(jax.tree.leaves, (gradient, of_one, of_other)), strict=True):
        np.testing.assert_allclose(ours, 2 * first + 3 * second, rtol=1e-4, atol=1e-6)
