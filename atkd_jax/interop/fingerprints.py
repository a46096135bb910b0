"""Hashes of what a teacher is: its weights, and its tokenizer."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from atkd_jax.interop.tensor_files import list_tensors, read_tensor


def weights_sha256(directory: Path) -> str:
    """Returns a hash of a directory's tensors, by name; the same however they are divided among files.

    Raises:
        InputError: as `list_tensors`.
    """
    digest = hashlib.sha256()
    for name, stored in sorted(list_tensors(directory).items()):
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
