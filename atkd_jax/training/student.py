"""How the student starts: a pruned teacher, a directory, or random weights by a size table."""

import jax.numpy as jnp
from flax import nnx

from atkd_jax.config import StudentConfig
from atkd_jax.interop import load_model
from atkd_jax.models import Decoder, Remat, evenly_spaced_layers, prune_layers, sized_config


def build_student(config: StudentConfig, *, teacher: Decoder, dtype: jnp.dtype, remat: Remat, seed: int) -> Decoder:
    """Returns the student before its first step, its weights in float32.

    Args:
        config: Where it starts.
        teacher: The model that it may be pruned from, and whose vocabulary it shares.
        dtype: Type of the student's arithmetic.
        remat: What its backward pass recomputes.
        seed: Of random weights.

    Raises:
        InputError: if the layers to keep are not the teacher's, the directory is no model, or the size is unknown.
    """
    if config.init == "prune":
        kept = config.keep_layers or evenly_spaced_layers(teacher.config.num_layers, config.layers or 0)
        return prune_layers(teacher, kept, dtype=dtype, remat=remat)
    if config.init == "scratch":
        shape = sized_config(config.size or "", like=teacher.config)
        return Decoder(shape, rngs=nnx.Rngs(params=seed), dtype=dtype, remat=remat)
    assert config.directory is not None  # the config's own check
    return load_model(config.directory, dtype=dtype, param_dtype=jnp.float32, remat=remat)
