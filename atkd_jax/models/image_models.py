"""Small models of images: the autoencoder that finds out how alike classes are, and the student."""

from __future__ import annotations

from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx

CHANNELS = (12, 24, 48)


class ImageAutoencoder(nnx.Module):
    """Three strided convolutions of 12, 24 and 48 channels, and as many transposed ones back.

    Args:
        channels: of an image.
        rngs: its `params` stream draws the initial weights.
    """

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        widths = (channels, *CHANNELS)
        steps = list(pairwise(widths))
        self.down = nnx.List([nnx.Conv(one, two, (4, 4), strides=2, rngs=rngs) for one, two in steps])
        self.up = nnx.List([nnx.ConvTranspose(two, one, (4, 4), strides=(2, 2), rngs=rngs) for one, two in steps[::-1]])

    def embed(self, images: jax.Array) -> jax.Array:
        """Returns `[rows, width]` of images `[rows, height, width, channels]`."""
        return self._encoded(images).reshape(images.shape[0], -1)

    def _encoded(self, images: jax.Array) -> jax.Array:
        # Sides that three halvings divide, so that the way back ends at the same size.
        height, width = (-side % 8 for side in images.shape[1:3])
        x = jnp.pad(images, ((0, 0), (0, height), (0, width), (0, 0)))
        for layer in self.down:
            x = nnx.relu(layer(x))
        return x

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns the images as they are reconstructed, in 0..1."""
        x = self._encoded(images)
        for layer in self.up[:-1]:
            x = nnx.relu(layer(x))
        return nnx.sigmoid(self.up[-1](x))[:, : images.shape[1], : images.shape[2]]


class ImageClassifier(nnx.Module):
    """Three convolutions, two of them strided, the mean over the image, and a linear head.

    Args:
        channels: of an image.
        classes: how many there are.
        width: channels of the last two convolutions; the first has half of them.
        rngs: its `params` stream draws the initial weights.
    """

    def __init__(self, channels: int, classes: int, *, width: int, rngs: nnx.Rngs):
        self.first = nnx.Conv(channels, width // 2, (3, 3), rngs=rngs)
        self.second = nnx.Conv(width // 2, width, (3, 3), strides=2, rngs=rngs)
        self.third = nnx.Conv(width, width, (3, 3), strides=2, rngs=rngs)
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits `[rows, classes]` of images `[rows, height, width, channels]`."""
        x = images
        for layer in (self.first, self.second, self.third):
            x = nnx.relu(layer(x))
        return self.head(jnp.mean(x, axis=(1, 2)))
