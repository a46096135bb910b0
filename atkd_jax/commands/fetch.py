"""`launch.py fetch [NAME]`: brings a model into the cache, as a Hugging Face directory."""

from atkd_jax.commands.verbs import FetchOptions
from atkd_jax.interop import fetch_model


def run(options: FetchOptions) -> None:
    """Brings the model, or finds that it is there, and prints its directory."""
    config = options.settings
    print(fetch_model(options.name or config.teacher.model, cache_dir=config.cache_dir, report=print))
