"""A teacher that is read from a cache: its signal of a batch, without its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from atkd_jax import losses
from atkd_jax.data.cache_manifest import Manifest
from atkd_jax.data.cached_signals import PREFIX, CachedSignals
from atkd_jax.data.record_shards import ShardFacts, file_sha256
from atkd_jax.data.signal_format import SignalFormat
from atkd_jax.errors import InputError
from atkd_jax.teachers.cache_settings import format_of
from atkd_jax.teachers.live import TeacherSignal

HEAD_NAME = "head.npy"


class CachedTeacher(NamedTuple):
    """What a step must know of a cache; static.

    Attributes:
        form: what its records hold.
        dtype: of the live teacher's hidden states and head.
        softcap: c of its logits c tanh(logits / c), or None.
    """

    form: SignalFormat
    dtype: str
    softcap: float | None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its arrays in a batch."""
        return tuple(PREFIX + name for name in self.form.shapes())

    def signal(self, batch: dict[str, jax.Array]) -> TeacherSignal:
        """Returns what a batch says of the teacher, which has its arrays `[microbatches, rows, length, ...]`."""
        own = {name: batch[PREFIX + name] for name in self.form.shapes()}
        exact = {name: own[name] for name in ("target_log_prob", "log_uncertainty", "rest_entropy")}
        known = exact["target_log_prob"]
        if self.form.kind == "hidden":
            hidden = own["hidden"].astype(jnp.float32)
            if self.form.hidden_type == "int8":
                hidden = hidden * own["scale"][..., None]
            return TeacherSignal(hidden.astype(self.dtype), known)
        if self.form.kind == "rest_sample":
            return TeacherSignal(None, known, losses.RestSample(**exact, ids=own["ids"], counts=own["counts"]))
        tail = losses.TailSample(own["tail_ids"], own["tail_weights"]) if self.form.tail_draws else None
        kept = {name: own[name] for name in ("ids", "log_probs", "log_rest_mass")}
        return TeacherSignal(None, known, losses.TopKSignal(**exact, **kept, tail=tail))


def cached_teacher(manifest: Manifest) -> CachedTeacher:
    """Returns what a step must know of a cache."""
    return CachedTeacher(format_of(manifest), manifest.settings["teacher.dtype"], manifest.facts["logit_softcap"])


def cached_signals(directory: Path, manifest: Manifest) -> CachedSignals:
    """Returns what puts a cache's arrays beside those of a batch."""
    length = manifest.settings["data.sequence_length"]
    return CachedSignals(manifest.files(directory), format_of(manifest), sequence_length=length)


def write_head(directory: Path, head: Any) -> ShardFacts:
    """Keeps the teacher's head, `[width, vocab]`, beside hidden states, in float32; returns what the manifest says."""
    path = directory / HEAD_NAME
    growing = path.with_name(f"growing.{HEAD_NAME}")
    np.save(growing, np.asarray(head, np.float32))
    facts = ShardFacts(HEAD_NAME, 0, 0, growing.stat().st_size, file_sha256(growing))
    growing.replace(path)
    return facts


def read_head(directory: Path, manifest: Manifest) -> np.ndarray:
    """Returns the teacher's head, float32 `[width, vocab]`.

    Raises:
        InputError: the file is not what was written.
    """
    path = directory / HEAD_NAME
    if manifest.head is None or file_sha256(path) != manifest.head.sha256:
        raise InputError(
            f"{path} must be the teacher's head as `cache` wrote it, but is damaged; remove it and run `launch.py "
            "cache` with the same config."
        )
    return np.load(path)
