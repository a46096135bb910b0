"""The tokenizer that a GGUF file's metadata describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from atkd_jax.errors import InputError

_CONTROL, _USER_DEFINED = 3, 4  # values of tokenizer.ggml.token_type
# Names in tokenizer.ggml.pre of vocabularies whose text is split by GPT-2's pattern, as transformers reads them.
# SmolLM's own tokenizer also splits digits from the spaces before them; read from a GGUF file it does not.
_GPT2_SPLITS = ("default", "gpt-2", "smollm")


def _added(tokens: Sequence[str], types: Sequence[int], wanted: int) -> list[AddedToken]:
    special = wanted == _CONTROL
    return [
        AddedToken(token, normalized=False, special=special)
        for token, kind in zip(tokens, types, strict=True)
        if kind == wanted
    ]


def _padding(tokens: list[str], types: list[int], metadata: Mapping[str, Any]) -> str | None:
    """Return a token for padding that no text ends in, where there is one.

    Files often name EOS itself; programs that leave padding out of the loss then never teach a model to stop.
    """
    eos_id = metadata.get("tokenizer.ggml.eos_token_id")
    named = metadata.get("tokenizer.ggml.padding_token_id")
    unknown = metadata.get("tokenizer.ggml.unknown_token_id")
    for token_id in (named, unknown, types.index(_CONTROL) if _CONTROL in types else None):
        if token_id is not None and token_id != eos_id:
            return tokens[token_id]
    return tokens[named] if named is not None else None


def tokenizer_of_gguf(metadata: Mapping[str, Any], *, max_length: int) -> PreTrainedTokenizerFast:
    """Return the byte-level BPE tokenizer of a GGUF file: the ids are those that transformers gives for the file.

    Args:
        metadata: the file's, by its keys.
        max_length: tokens that the model was trained for.

    Raises:
        InputError: where the file's vocabulary is of another kind.
    """
    kind, split = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre", "default")
    if kind != "gpt2" or split not in _GPT2_SPLITS:
        raise InputError(
            f"must have a byte-level BPE vocabulary (gpt2) split as one of {', '.join(_GPT2_SPLITS)}, but has {kind!r} "
            f"split as {split!r}; choose the model in safetensors with its tokenizer.json."
        )
    parts = ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges")
    for part in parts:
        if part not in metadata:
            raise InputError(f"must have the key {part}, but does not; choose a file that holds its tokenizer.")
    tokens, types, joined_merges = (metadata[part] for part in parts)
    merges = [tuple(merge.split(" ")) for merge in joined_merges]
    backend = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(_added(tokens, types, _CONTROL))
    backend.add_tokens(_added(tokens, types, _USER_DEFINED))

    named = {
        role: tokens[metadata[key]]
        for role, key in (
            ("bos_token", "tokenizer.ggml.bos_token_id"),
            ("eos_token", "tokenizer.ggml.eos_token_id"),
            ("unk_token", "tokenizer.ggml.unknown_token_id"),
        )
        if metadata.get(key) is not None
    }
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=_padding(tokens, types, metadata),
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
        **named,
    )
    tokenizer.chat_template = metadata.get("tokenizer.chat_template")
    return tokenizer
