"""Knowledge distillation for autoregressive language models in JAX and Flax, around ATKD.

The package imports nothing by itself, so that `from atkd_jax import losses` brings in jax and no more.
"""

__version__ = "0.1.0"
