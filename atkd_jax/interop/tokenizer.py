"""Loading and saving tokenizers, and the check that two of them give the same ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from atkd_jax.errors import InputError

_CONFIG_NAME = "tokenizer_config.json"
# What transformers notes about the machine that saved, and no reader asks for.
_NOISE = ("backend", "is_local", "local_files_only", "name_or_path", "tokenizer_file")


def load_tokenizer(directory: Path | str) -> PreTrainedTokenizerFast:
    """Return the tokenizer that a directory's tokenizer.json defines.

    tokenizer.json is taken at its word. (`AutoTokenizer` may rebuild it after the class that tokenizer_config.json
    names, and then lose what that class does not know, such as SmolLM2's splitting of digits.)

    Raises:
        InputError: where tokenizer.json is missing or corrupt.
    """
    directory = Path(directory)
    file = directory / "tokenizer.json"
    if not file.is_file():
        raise InputError(
            f"{directory} must hold {file.name}, but does not; save the model's fast tokenizer there "
            "(transformers' save_pretrained does)."
        )
    try:
        return PreTrainedTokenizerFast.from_pretrained(str(directory), local_files_only=True)
    # The Rust parser raises a bare Exception, and transformers whatever its many readers meet.
    except Exception as error:
        raise InputError(
            f"{file} must be a readable tokenizer, but is truncated or corrupt ({error}); fetch the model again."
        ) from error


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Write a tokenizer so that transformers 4 and 5 and programs without either open it: its chat template, too."""
    # In tokenizer_config.json rather than in a file of its own, because every reader looks there.
    tokenizer.save_pretrained(str(directory), save_jinja_files=False)
    file = directory / _CONFIG_NAME
    settings = json.loads(file.read_text(encoding="utf-8"))
    settings = {key: value for key, value in settings.items() if key not in _NOISE}
    if settings.get("tokenizer_class") == "TokenizersBackend":  # the name that only transformers 5 knows
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    file.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _rules(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    rules["vocabulary"] = tokenizer.get_vocab()
    rules["special tokens"] = {
        token.content: token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    return rules


def _vocabulary_difference(teacher: dict[str, int], student: dict[str, int]) -> str | None:
    if teacher == student:
        return None
    token = min(token for token in teacher.keys() | student.keys() if teacher.get(token) != student.get(token))
    ids = [
        f"is {ids[token]} in the {who}'s" if token in ids else f"is not in the {who}'s"
        for who, ids in (("teacher", teacher), ("student", student))
    ]
    return f"the token {token!r} {ids[0]} and {ids[1]} ({len(teacher)} and {len(student)} tokens in all)"


def _merge_difference(teacher: list, student: list) -> str | None:
    for number, pair in enumerate(zip(teacher, student, strict=False)):
        if pair[0] != pair[1]:
            return f"merge number {number} is {pair[0]} in the teacher's and {pair[1]} in the student's"
    if len(teacher) != len(student):
        return f"the teacher's has {len(teacher)} merges and the student's {len(student)}"
    return None


def _difference(teacher: dict[str, Any], student: dict[str, Any]) -> str | None:
    """Return what differs in the ids that two tokenizers give, or None."""
    found = _vocabulary_difference(teacher["vocabulary"], student["vocabulary"])
    if found:
        return f"vocabulary: {found}"
    if teacher["special tokens"] != student["special tokens"]:
        token = min(teacher["special tokens"].items() ^ student["special tokens"].items())[0]
        owner = "teacher" if token in teacher["special tokens"] else "student"
        return f"special tokens: {token!r} is a special token in the {owner}'s only"
    kinds = [rules["model"].get("type") for rules in (teacher, student)]
    if kinds[0] != kinds[1]:
        return f"kind: {kinds[0]} in the teacher's and {kinds[1]} in the student's"
    found = _merge_difference(teacher["model"].get("merges") or [], student["model"].get("merges") or [])
    if found:
        return f"merges: {found}"
    for part in ("normalizer", "pre_tokenizer"):
        if teacher[part] != student[part]:
            texts = [json.dumps(rules[part], ensure_ascii=False)[:200] for rules in (teacher, student)]
            return f"{part}: {texts[0]} in the teacher's and {texts[1]} in the student's"
    return None


def require_same_tokenizer(
    teacher_tokenizer: PreTrainedTokenizerFast, student_tokenizer: PreTrainedTokenizerFast
) -> None:
    """See to it that both tokenizers turn every text into the same ids.

    Compared are the vocabulary with all added tokens, which of them are special, the merges, and how text is normalised
    and split before them. Not compared are the chat template and which token is called EOS or padding: base models and
    their chat models differ there, and it changes no id. The models' vocabularies may be padded to different sizes:
    that is no part of a tokenizer.

    Raises:
        InputError: where they differ; it says in what, with an example.
    """
    found = _difference(_rules(teacher_tokenizer), _rules(student_tokenizer))
    if found:
        raise InputError(
            f"Teacher and student must have the same tokenizer, but theirs differ in the {found}; choose a student of "
            "the teacher's kind, or objective.name=universal_logit, for which each may have its own."
        )
