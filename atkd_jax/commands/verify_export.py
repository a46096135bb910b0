"""`export --verify`: what was written, beside transformers' PyTorch model of it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from transformers import PreTrainedTokenizerFast
from transformers import __version__ as transformers_version

from atkd_jax.errors import InputError
from atkd_jax.generation import generate
from atkd_jax.interop import load_model, load_tokenizer
from atkd_jax.models import Decoder

GREEDY_TOKENS = 64
TOLERANCE = 1e-4
# Prose, code, digits and other scripts, so that many kinds of tokens are met.
TEXT = (
    "The quick brown fox jumps over the lazy dog; 12 + 345 = 357.\n\ndef mean(values):\n    return sum(values) / "
    "len(values)  # naïve\n\nÜber allen Gipfeln ist Ruh. Знание — сила. 知识就是力量。"
)


class Verification(NamedTuple):
    """How two programs differ on one model, in float32.

    Attributes:
        tokens: Of the text that both read.
        logit_difference: The largest, each in units of the larger of 1 and the largest logit of its position, which
            is what float32 sums err in proportion to.
        forward_kl: KL(PyTorch || ours) in nats, the mean over the tokens.
        greedy_tokens: How many were written by each.
        same_tokens: How many of them are the same, from the first on.
    """

    tokens: int
    logit_difference: float
    forward_kl: float
    greedy_tokens: int
    same_tokens: int

    def sentence(self) -> str:
        """Returns the figures in words."""
        return (
            f"Verified against transformers {transformers_version} in float32: on {self.tokens} tokens logits differ "
            f"by at most {self.logit_difference:.1e} of the largest, KL is {self.forward_kl:.1e} nats per token, and "
            f"{self.same_tokens} of {self.greedy_tokens} greedy tokens are the same."
        )


def require_torch() -> None:
    """Raises InputError where torch is not installed."""
    if find_spec("torch") is None:
        raise InputError(
            "--verify compares what is exported with transformers' PyTorch model of it, but torch is not installed; "
            "install it, or leave --verify out: the export itself does not need it."
        )


def verify_export(directory: Path) -> Verification:
    """Compares a Hugging Face directory as it is read here with what transformers makes of it.

    Raises:
        InputError: if torch is not installed, or they differ.
    """
    require_torch()
    import torch
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    return _compare(load_model(directory), theirs, load_tokenizer(directory), where=directory)


def verify_adapter(student: Decoder, directory: Path, *, tokenizer: PreTrainedTokenizerFast) -> Verification:
    """Compares a model with what peft makes of its base and the adapter in a directory.

    Raises:
        InputError: if torch or peft is not installed, or they differ.
    """
    require_torch()
    if find_spec("peft") is None:
        raise InputError("--verify opens an adapter with peft, but that is not installed; install it, or leave it out.")
    import torch
    from peft import AutoPeftModelForCausalLM

    theirs = AutoPeftModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    wide = nnx.clone(student)
    nnx.update(wide, jax.tree.map(lambda leaf: leaf.astype(jnp.float32), nnx.state(wide)))
    wide.dtype = jnp.float32
    return _compare(wide, theirs, tokenizer, where=directory)


def _compare(ours: Decoder, theirs: Any, tokenizer: PreTrainedTokenizerFast, *, where: Path) -> Verification:
    import torch

    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    # Learned positions end somewhere, and the answer needs some too.
    room = max(1, min(len(ids), ours.config.max_position - GREEDY_TOKENS))
    ids = ids[:room]
    written = min(GREEDY_TOKENS, ours.config.max_position - len(ids))
    graphdef, params = nnx.split(ours)
    run = jax.jit(lambda params, tokens: nnx.merge(graphdef, params)(tokens))
    # peft cuts a padded vocabulary to the tokenizer's.
    logits = np.asarray(run(params, jnp.asarray([ids], jnp.int32))[0, :, : len(tokenizer)], np.float64)
    tokens = torch.tensor([ids])
    # Both write on beyond an end, so that there are as many tokens to compare as can be.
    theirs.generation_config.eos_token_id = None
    with torch.no_grad():
        expected = theirs(tokens).logits[0, :, : len(tokenizer)].double().numpy()
        greedy = theirs.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=written,
            eos_token_id=None,
            do_sample=False,
            pad_token_id=0,
        )[0, len(ids) :].tolist()
    (answer,) = generate(graphdef, params, [ids], max_new_tokens=written, eos_ids=(), pad_id=0)
    same = next((place for place, pair in enumerate(zip(answer, greedy, strict=True)) if pair[0] != pair[1]), written)
    found = Verification(len(ids), _difference(logits, expected), _forward_kl(expected, logits), written, same)
    if found.logit_difference > TOLERANCE or same < written:
        raise InputError(
            f"{where} must give transformers' logits within {TOLERANCE:g} and the same greedy tokens, but they differ "
            f"by {found.logit_difference:.1e} and agree in {same} of {written}; this is a fault of atkd_jax: do not "
            "use the export, and report it with the model's config.json."
        )
    return found


def _difference(logits: np.ndarray, expected: np.ndarray) -> float:
    return float(np.max(np.abs(logits - expected) / np.maximum(1.0, np.abs(expected).max(axis=-1, keepdims=True))))


def _forward_kl(of: np.ndarray, other: np.ndarray) -> float:
    def log_softmax(logits: np.ndarray) -> np.ndarray:
        shifted = logits - logits.max(axis=-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))

    first, second = log_softmax(of), log_softmax(other)
    return float(np.mean(np.sum(np.exp(first) * (first - second), axis=-1)))
