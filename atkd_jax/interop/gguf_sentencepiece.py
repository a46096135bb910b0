"""SentencePiece vocabularies of BPE kind in GGUF files, as LLaMA 1 and 2 and the first Mistrals have them.

Such a file holds each token's score and no merges: of all neighbours whose union is a token, those are merged whose
union has the highest score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, processors

from atkd_jax.errors import InputError

_NORMAL, _UNKNOWN, _USER_DEFINED, _BYTE = 1, 2, 4, 6  # values of tokenizer.ggml.token_type
_SPACE = "\u2581"
Merge = tuple[str, str]


def merges_of_scores(tokens: Sequence[str], scores: Sequence[float], types: Sequence[int]) -> list[Merge]:
    """Return the pairs that are merged, the first ones first."""
    words = {token for token, kind in zip(tokens, types, strict=True) if kind in (_NORMAL, _USER_DEFINED)}
    found: list[tuple[float, str, str]] = []
    for token, score in zip(tokens, scores, strict=True):
        if token in words:
            splits = ((token[:place], token[place:]) for place in range(1, len(token)))
            found += [(score, first, second) for first, second in splits if first in words and second in words]
    # Two ways to one token have one score; the longer first half goes first.
    found.sort(key=lambda each: (-each[0], -len(each[1])))
    return [(first, second) for _, first, second in found]


def sentencepiece_backend(metadata: Mapping[str, Any]) -> Tokenizer:
    """Return the tokenizer that a file's metadata describes, without its special tokens.

    Raises:
        InputError: where the metadata lack a part of it.
    """
    parts = ("tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type")
    for part in parts:
        if part not in metadata:
            raise InputError(f"must have the key {part}, but does not; choose a file that holds its tokenizer.")
    tokens, scores, types = (metadata[part] for part in parts)
    unknown = next((token for token, kind in zip(tokens, types, strict=True) if kind == _UNKNOWN), None)
    backend = Tokenizer(
        models.BPE(
            vocab={token: number for number, token in enumerate(tokens)},
            merges=merges_of_scores(tokens, scores, types),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=_BYTE in types,
        )
    )
    begins_with_space = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    steps: list[Any] = [normalizers.Prepend(_SPACE)] if begins_with_space else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    ends = [decoders.Strip(" ", 1, 0)] if begins_with_space else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *ends]
    )
    bos_id = metadata.get("tokenizer.ggml.bos_token_id")
    # Old files have no such key, and llama.cpp then puts BOS before a text of such a vocabulary.
    if bos_id is not None and metadata.get("tokenizer.ggml.add_bos_token", True):
        bos = tokens[bos_id]
        backend.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, bos_id)])
    return backend


def is_sentencepiece(rules: Mapping[str, Any]) -> bool:
    """Return whether a tokenizer.json is of the kind that such a file can say: spaces are letters, bytes are tokens."""
    model, splitter = rules["model"], rules.get("pre_tokenizer") or {}
    replaced = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    # Gemma's splits at spaces, of which there are none left by then.
    splits_nothing = not splitter or (splitter.get("type"), splitter.get("pattern")) == ("Split", {"String": " "})
    return (
        model.get("type") == "BPE"
        and bool(model.get("byte_fallback"))
        and splits_nothing
        and replaced in _normalizers(rules)
    )


def _normalizers(rules: Mapping[str, Any]) -> list[Any]:
    normalizer = rules.get("normalizer") or {}
    return normalizer.get("normalizers", [normalizer])


def prepends_space(rules: Mapping[str, Any]) -> bool:
    """Return whether a text begins with a space of the tokenizer's own."""
    return {"type": "Prepend", "prepend": _SPACE} in _normalizers(rules)


def scores_and_types(
    rules: Mapping[str, Any], tokens: Sequence[str], others: Mapping[str, int]
) -> tuple[list[float], list[int]]:
    """Return each token's score and type, from which the merges can be had again.

    Args:
        rules: a tokenizer.json for which `is_sentencepiece` holds.
        tokens: by their ids.
        others: types of tokens that are no words.

    Raises:
        InputError: where the merges are not those of any scores.
    """
    merges: list[Merge] = [
        (each.split(" ")[0], each.split(" ")[1]) if isinstance(each, str) else (each[0], each[1])
        for each in rules["model"].get("merges") or []
    ]
    rank: dict[str, int] = {}
    for number, (first, second) in enumerate(merges):
        rank.setdefault(first + second, number)
    bytes_ = {f"<0x{byte:02X}>": _BYTE for byte in range(256)}
    special = {rules["model"].get("unk_token"): _UNKNOWN}
    known = {**bytes_, **others, **special}
    types = [known.get(token, _NORMAL) for token in tokens]
    # What is no union of others, such as a letter, is never merged to.
    scores = [-float(rank.get(token, len(merges))) for token in tokens]
    read = merges_of_scores(tokens, scores, types)
    if sorted(read) != sorted(merges) or [a + b for a, b in read] != [a + b for a, b in merges]:
        raise InputError(
            "--format gguf writes a SentencePiece vocabulary by the scores of its tokens, but no scores give the "
            "merges of the student's tokenizer; export safetensors, and let llama.cpp's own converter read them."
        )
    return scores, types
