"""Hashes of what a teacher is: its weights, its config, and its tokenizer."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from atkd_jax.interop.loading import read_config
from atkd_jax.interop.tensor_files import StoredTensor, list_tensors, read_tensor
from atkd_jax.models import DecoderConfig


def weights_sha256(directory: Path, *, memory: Path | None = None) -> str:
    """Returns a hash of a directory's tensors, by name; the same however they are divided among files.

    Args:
        directory: The model's.
        memory: A folder in which the hash is kept, by the names, sizes and times of the files, so that the weights are
            read once.

    Raises:
        InputError: as `list_tensors`.
    """
    tensors = list_tensors(directory)
    if memory is None:
        return _tensors_sha256(tensors)
    files = sorted({stored.file.resolve() for stored in tensors.values()})
    marks = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    kept = memory / f"{hashlib.sha256(json.dumps(marks).encode()).hexdigest()}.sha256"
    if kept.is_file():
        return kept.read_text(encoding="utf-8")
    found = _tensors_sha256(tensors)
    memory.mkdir(parents=True, exist_ok=True)
    growing = kept.with_suffix(f".{os.getpid()}")
    growing.write_text(found, encoding="utf-8")
    growing.replace(kept)
    return found


def config_sha256(directory: Path) -> str:
    """Returns a hash of all that a model's config.json says of its arithmetic.

    What a switch has where nothing is said is no part of it, so that the hash stays when a version has new switches.

    Raises:
        InputError: as `read_config`.
    """
    config = read_config(directory)
    silent = {field.name: field.default for field in dataclasses.fields(DecoderConfig)}
    said = {name: value for name, value in dataclasses.asdict(config).items() if value != silent[name]}
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()


def _tensors_sha256(tensors: Mapping[str, StoredTensor]) -> str:
    digest = hashlib.sha256()
    for name, stored in sorted(tensors.items()):
        digest.update(f"{name}:{stored.kind}:{stored.shape};".encode())
        digest.update(np.ascontiguousarray(read_tensor(name, stored)).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def tokenizer_sha256(tokenizer: PreTrainedTokenizerFast) -> str:
    """Returns a hash of all that decides which ids a text becomes: the rules, the special tokens, the chat template."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    # A call leaves behind how it padded and truncated.
    content = {name: rule for name, rule in rules.items() if name not in ("padding", "truncation")}
    content["special"] = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    content["chat_template"] = tokenizer.chat_template
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
