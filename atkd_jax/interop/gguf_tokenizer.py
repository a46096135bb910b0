"""The tokenizer that a GGUF file's metadata describes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from atkd_jax.errors import InputError
from atkd_jax.interop.gguf_sentencepiece import (
    is_sentencepiece,
    prepends_space,
    scores_and_types,
    sentencepiece_backend,
)

if TYPE_CHECKING:
    from gguf import GGUFWriter

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5  # values of tokenizer.ggml.token_type
# Names in tokenizer.ggml.pre of vocabularies whose text is split by GPT-2's pattern, as transformers reads them.
# SmolLM's own tokenizer also splits digits from the spaces before them; read from a GGUF file it does not.
_GPT2_SPLITS = ("default", "gpt-2", "smollm")
# Of several names of one pattern, the one that is written.
_WRITTEN_NAMES = ("llama-bpe", "qwen2", "tekken", "gpt-4o")


def _patterns() -> Mapping[str, str]:
    """Return the patterns that text is split by, by their names in GGUF files, as transformers has them."""
    try:
        from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
    except ImportError:  # as in versions that kept them elsewhere
        return {}
    return GGUF_PRE_TOKENIZER_SPLITS


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


def _splitter(pattern: str | None) -> pre_tokenizers.PreTokenizer:
    """Return what splits text by a pattern, or by GPT-2's, and spells bytes as letters."""
    if pattern is None:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def tokenizer_of_gguf(metadata: Mapping[str, Any], *, max_length: int) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a GGUF file, of byte-level BPE or of SentencePiece's.

    Args:
        metadata: the file's, by its keys.
        max_length: tokens that the model was trained for.

    Raises:
        InputError: where the file's vocabulary is of another kind.
    """
    if metadata.get("tokenizer.ggml.model") == "llama":
        backend = sentencepiece_backend(metadata)
    else:
        backend = _byte_level_backend(metadata)
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
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


def _byte_level_backend(metadata: Mapping[str, Any]) -> Tokenizer:
    """Return what splits text, without special tokens: the ids are those that transformers gives for the file."""
    kind, split = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre", "default")
    patterns = _patterns()
    if kind != "gpt2" or (split not in _GPT2_SPLITS and split not in patterns):
        known = ", ".join((*_GPT2_SPLITS, *patterns))
        raise InputError(
            "must have a SentencePiece vocabulary (llama), or one of byte-level BPE (gpt2) split as one of "
            f"{known}, but has {kind!r} split as {split!r}; choose the model in safetensors with its tokenizer.json."
        )
    parts = ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges")
    for part in parts:
        if part not in metadata:
            raise InputError(f"must have the key {part}, but does not; choose a file that holds its tokenizer.")
    tokens, _, joined_merges = (metadata[part] for part in parts)
    merges = [tuple(merge.split(" ")) for merge in joined_merges]
    backend = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=merges))
    backend.pre_tokenizer = _splitter(None if split in _GPT2_SPLITS else patterns[split])
    backend.decoder = decoders.ByteLevel()
    return backend


def _split_name(rules: Mapping[str, Any] | None) -> str | None:
    """Return the name in GGUF files of how a tokenizer.json splits text, or None where it is not known."""
    steps = [] if rules is None else rules.get("pretokenizers", [rules])
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits") and steps[1].get("use_regex", True):
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and not steps[1].get("use_regex", True):
        pattern = steps[0].get("pattern", {}).get("Regex")
        return next((name for name in _WRITTEN_NAMES if _patterns().get(name) == pattern), None)
    return None


def add_tokenizer(writer: GGUFWriter, tokenizer: PreTrainedTokenizerFast, *, vocab_size: int) -> None:
    """Add a tokenizer of byte-level BPE or of SentencePiece's to a file's metadata.

    It is filled up to the model's vocabulary.

    Raises:
        InputError: where the tokenizer is of another kind, or splits text in a way that has no name there.
    """
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    added = {token["content"]: _CONTROL if token["special"] else _USER_DEFINED for token in rules["added_tokens"]}
    by_id = {token_id: token for token, token_id in tokenizer.get_vocab().items()}
    tokens = [by_id.get(token_id, f"[PAD{token_id}]") for token_id in range(vocab_size)]
    others = added | {token: _UNUSED for token_id, token in enumerate(tokens) if token_id not in by_id}
    if is_sentencepiece(rules):
        scores, types = scores_and_types(rules, tokens, others)
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(scores)
        writer.add_add_space_prefix(prepends_space(rules))
        if isinstance(tokenizer.unk_token_id, int):
            writer.add_unk_token_id(tokenizer.unk_token_id)
    else:
        types = [others.get(token, _NORMAL) for token in tokens]
        _add_byte_level(writer, rules)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    for add, token_id in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_eos_token_id, tokenizer.eos_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
    ):
        if isinstance(token_id, int):
            add(token_id)
    begins = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    writer.add_add_bos_token(begins)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _add_byte_level(writer: GGUFWriter, rules: Mapping[str, Any]) -> None:
    split = _split_name(rules.get("pre_tokenizer"))
    if rules["model"].get("type") != "BPE" or rules["model"].get("byte_fallback") or split is None:
        raise InputError(
            "--format gguf writes tokenizers of SentencePiece's BPE, and byte-level BPE tokenizers that split text as "
            f"GPT-2, SmolLM, {', '.join(_WRITTEN_NAMES)} do, but the student's is {rules['model'].get('type')} with "
            f"the pre_tokenizer {json.dumps(rules.get('pre_tokenizer'))[:200]}; export safetensors, and let "
            "llama.cpp's own converter read them."
        )
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    merges = rules["model"].get("merges") or []
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
