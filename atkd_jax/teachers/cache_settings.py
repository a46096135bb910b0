"""What a teacher's cache is made of, and whether it is what a run asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

from atkd_jax.config import Config
from atkd_jax.data.cache_manifest import Manifest, complete_manifest, data_fingerprint, require_same_settings
from atkd_jax.data.encoding import EncodedExamples
from atkd_jax.data.signal_format import SignalFormat
from atkd_jax.interop import config_sha256, tokenizer_sha256, weights_sha256
from atkd_jax.sharding import gathered

# What is written where the config leaves it open.
_DEFAULTS = {"kind": "top_k", "k": 64, "tail_draws": 0, "draws": 64, "hidden_type": "bfloat16", "seed": 0}
_OF_KIND = {"top_k": ("k", "tail_draws"), "rest_sample": ("draws",), "hidden": ("hidden_type",)}


def new_settings(config: Config, *, source: dict[str, Any], vocab_size: int, width: int) -> dict[str, Any]:
    """Returns the settings of the cache that a config writes, by dotted name.

    Args:
        config: The run.
        source: What `source_settings` says of its teacher and its data.
        vocab_size: The tokenizer's number of ids.
        width: Of the teacher's hidden states.
    """
    chosen = {name: _or(getattr(config.cache, name), default) for name, default in _DEFAULTS.items()}
    kept = ("kind", "seed", *_OF_KIND[chosen["kind"]])
    settings = source | {f"cache.{name}": chosen[name] for name in kept}
    settings["cache.examples_per_shard"] = config.cache.examples_per_shard
    # Of the probabilities; hidden states serve any temperature.
    settings["objective.temperature"] = None if chosen["kind"] == "hidden" else 1.0
    return settings | {"vocab_size": vocab_size, "width": width}


def source_settings(config: Config, *, directory: Path, tokenizer: Any, encoded: EncodedExamples) -> dict[str, Any]:
    """Returns, by dotted name, what a cache's records depend on besides what is kept of each token.

    Every process must call it. Where the teacher's weights are not there, which who reads a cache does not need,
    nothing is said of them.

    Args:
        config: The run.
        directory: The teacher's.
        tokenizer: Its tokenizer.
        encoded: The run's examples.
    """
    served = config.teacher.endpoint_options.model or config.teacher.model
    weights = {}
    if config.teacher.endpoint is not None:
        # Nobody here has seen its weights.
        weights["teacher.weights"] = f"served as {served}"
    else:
        # One process reads the weights for all.
        own = _weights_here(config, directory) if jax.process_index() == 0 else None
        if (found := gathered(own)[0]) is not None:
            weights["teacher.weights"] = found
    return weights | {
        "teacher.config": config_sha256(directory),
        "teacher.dtype": config.teacher.dtype,
        "teacher.quantize": config.teacher.quantize,
        "teacher.tokenizer": tokenizer_sha256(tokenizer),
        "data.template": config.data.template,
        "data.sequence_length": config.data.sequence_length,
        "data.packing": config.data.packing,
        "data.overlong": config.data.overlong,
        "data.examples": len(encoded),
        "data.fingerprint": data_fingerprint(encoded),
    }


def format_of(manifest: Manifest) -> SignalFormat:
    """Returns the format of a cache's records."""
    own = {name.removeprefix("cache."): value for name, value in manifest.settings.items()}
    names = ("kind", "vocab_size", "k", "tail_draws", "draws", "width", "hidden_type")
    return SignalFormat(**{name: own[name] for name in names if name in own})


def require_wanted(config: Config, directory: Path, source: dict[str, Any]) -> Manifest:
    """Returns the manifest of a whole cache that a run may read.

    Args:
        config: The run.
        directory: The cache.
        source: What `source_settings` says of the run.

    Raises:
        InputError: it is not whole, or was made of something else: each field is named, with both values.
    """
    manifest = complete_manifest(directory)
    chosen = {f"cache.{name}": getattr(config.cache, name) for name in _DEFAULTS}
    wanted = source | {name: value for name, value in chosen.items() if value is not None}
    if manifest.settings["objective.temperature"] is not None:
        wanted["objective.temperature"] = config.objective.temperature
    require_same_settings(directory, manifest, wanted)
    return manifest


def _weights_here(config: Config, directory: Path) -> str | None:
    if not any(directory.glob("*.safetensors")):
        return None
    return weights_sha256(directory, memory=config.cache_dir.expanduser() / "hashes")


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
