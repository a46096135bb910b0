import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from atkd_jax.models import ImageAutoencoder, ImageClassifier


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 30, 3)])
def test_an_image_comes_back_in_its_own_shape_through_three_halvings(shape):
    model = ImageAutoencoder(shape[-1], rngs=nnx.Rngs(params=0))
    images = jnp.ones((2, *shape))
    embedded, back = jax.eval_shape(lambda images: (model.embed(images), model(images)), images)
    assert back.shape == images.shape
    assert embedded.shape == (2, 48 * -(-shape[0] // 8) * -(-shape[1] // 8))
    assert [layer.out_features for layer in model.down] == [12, 24, 48]


def test_the_student_has_a_logit_for_every_class():
    model = ImageClassifier(3, 5, width=8, rngs=nnx.Rngs(params=0))
    assert jax.eval_shape(model, jnp.ones((2, 8, 8, 3))).shape == (2, 5)
