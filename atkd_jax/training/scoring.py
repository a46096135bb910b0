"""Scorers of short answers: a fine-tuned language model, and students with and without what it says of each answer."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from rich.console import Console

from atkd_jax import losses
from atkd_jax.config import Config
from atkd_jax.data import Answers, hashed_tokens, load_answers
from atkd_jax.errors import InputError
from atkd_jax.models import Decoder, DecoderConfig, Pruning, SequenceClassifier, TextScorer, prune_model
from atkd_jax.teachers import load_teacher
from atkd_jax.training.labelled_run import labelled_mesh, on_one_device, train_labelled
from atkd_jax.training.loop import Outcome
from atkd_jax.training.placement import placing_on

TEACHER, ALONE = "teacher", "without_teacher"
PROBABILITIES_NAME = "teacher_probabilities.npz"
_AT_ONCE = 64


class Scorer:
    """A trained model that takes texts.

    Args:
        model: gives logits of what `encode` gives.
        encode: texts to the model's arguments, arrays `[texts, ...]` in order.
    """

    def __init__(self, model: Any, encode: Callable[[list[str]], tuple[np.ndarray, ...]]):
        self.model, self.encode = model, encode
        graphdef, self._params = nnx.split(model)
        self._run = jax.jit(lambda params, *arguments: nnx.merge(graphdef, params)(*arguments))

    def logits(self, texts: list[str]) -> np.ndarray:
        """Returns float32 `[texts, classes]`."""
        arguments = self.encode(texts)
        cuts = range(0, len(texts), _AT_ONCE)
        return np.concatenate([self._run(self._params, *(each[c : c + _AT_ONCE] for each in arguments)) for c in cuts])


def train_scorers(
    config: Config, *, console: Console | None = None, before_start: Callable[[], None] = lambda: None
) -> Outcome:
    """Fine-tunes the teacher in `run_dir/teacher`, asks it once, and trains the student in `run_dir`.

    What the teacher says is kept in `teacher_probabilities.npz`, with which later calls do not need it. Beside it a
    student of the same size learns from the scores alone, in `run_dir/without_teacher`. All go on from checkpoints.

    Args:
        config: `answers` and `teacher` say what; the loop's settings are the student's.
        console: Where the progress lines go.
        before_start: Called once the data is there, before anything is written.

    Raises:
        InputError: if the data or the teacher cannot be had.
    """
    console = console or Console()
    labelled_mesh(config)
    answers = answers_of(config, config.answers.train_split, console=console)
    before_start()
    probabilities = None if config.answers.teacher_weight == 0 else _probabilities(config, answers, console)
    outcome = _train_student(config, answers, probabilities, console)[1]
    if probabilities is not None and outcome.stopped_by is None:
        alone = config.model_copy(update={"run_dir": config.run_dir / ALONE})
        _train_student(alone, answers, None, console)
    return outcome


def trained_scorers(config: Config, *, console: Console) -> dict[str, Scorer]:
    """Returns teacher, student and the student without a teacher, from their checkpoints; those that there are."""
    answers = answers_of(config, config.answers.train_split, console=console)
    has_teacher = config.answers.teacher_weight > 0
    probabilities = _probabilities(config, answers, console) if has_teacher else None
    scorers = {"student": _train_student(config, answers, probabilities, console)[0]}
    if has_teacher:
        alone = config.model_copy(update={"run_dir": config.run_dir / ALONE})
        scorers["student without KD"] = _train_student(alone, answers, None, console)[0]
        scorers = {"teacher": _fine_tuned(config, answers, console)} | scorers
    return scorers


def answers_of(config: Config, split: str, *, console: Console) -> Answers:
    """Returns the answers of one of the run's splits."""
    report = partial(console.print, highlight=False, soft_wrap=True)
    return load_answers(str(config.answers.source), split=split, cache_dir=config.cache_dir, report=report)


def classes_of(answers: Answers) -> int:
    """Returns how many scores there are: one more than the highest that was given."""
    return int(answers.scores.max()) + 1


def _train_student(
    config: Config, answers: Answers, probabilities: np.ndarray | None, console: Console
) -> tuple[Scorer, Outcome]:
    own = config.answers
    model = TextScorer(own.buckets, classes_of(answers), width=own.width, rngs=nnx.Rngs(params=config.seed))
    tokens = hashed_tokens(answers.texts, buckets=own.buckets, length=own.length)
    arrays = {"tokens": tokens, "scores": answers.scores}
    if probabilities is not None:
        arrays["probabilities"] = probabilities

    def loss_of(model: TextScorer, batch: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        logits = model(batch["tokens"])
        loss, metrics = _task(logits, batch["scores"])
        if "probabilities" in batch:
            apart = losses.soft_cross_entropy(student_logits=logits, soft_labels=batch["probabilities"])
            loss, metrics = loss + own.teacher_weight * apart, metrics | {"teacher_cross_entropy": apart}
        return loss, metrics

    outcome = train_labelled(model, arrays, loss_of, config=config, mesh=labelled_mesh(config), console=console)
    on_one_device(model)
    encode = partial(hashed_tokens, buckets=own.buckets, length=own.length)
    return Scorer(model, lambda texts: (encode(texts),)), outcome


def _task(logits: jax.Array, scores: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    loss = losses.cross_entropy(student_logits=logits, targets=scores)
    return loss, {"cross_entropy": loss, "accuracy": (logits.argmax(-1) == scores).astype(jnp.float32)}


def _fine_tuned(config: Config, answers: Answers, console: Console) -> Scorer:
    own, mesh = config.answers, labelled_mesh(config)
    decoder, tokenizer = _decoder(config, mesh, console)
    model = SequenceClassifier(decoder, classes_of(answers), rngs=nnx.Rngs(params=config.seed))

    def encode(texts: list[str]) -> tuple[np.ndarray, ...]:
        ids = [tokenizer(text, truncation=True, max_length=own.length)["input_ids"] or [0] for text in texts]
        tokens = np.zeros((len(ids), own.length), np.int32)
        for row, each in enumerate(ids):
            tokens[row, : len(each)] = each
        return tokens, np.array([len(each) for each in ids], np.int32)

    def loss_of(model: SequenceClassifier, batch: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        return _task(model(batch["tokens"], batch["lengths"], mesh=mesh), batch["scores"])

    tokens, lengths = encode(answers.texts)
    update = {
        "run_dir": config.run_dir / TEACHER,
        "training": config.training.model_copy(update={"steps": own.teacher_steps}),
        "optimizer": config.optimizer.model_copy(update={"learning_rate": own.teacher_learning_rate}),
    }
    arrays = {"tokens": tokens, "lengths": lengths, "scores": answers.scores}
    config = config.model_copy(update=update)
    outcome = train_labelled(model, arrays, loss_of, config=config, mesh=mesh, console=console)
    if outcome.stopped_by is not None:
        raise InputError("The teacher's fine-tuning was stopped; the same command goes on from its checkpoint.")
    return Scorer(model, encode)


def _decoder(config: Config, mesh: Mesh, console: Console) -> tuple[Decoder, Any]:
    """Returns the teacher before its fine-tuning, weights in float32 and arithmetic as the config has it."""
    trained = {"dtype": jnp.dtype(config.training.dtype), "remat": config.training.remat}
    as_stored = config.teacher.model_copy(update={"dtype": "float32"})
    loaded = load_teacher(config, teacher=as_stored, place=placing_on(mesh), report=console.print)
    return prune_model(loaded.model, teacher_pruning(config, loaded.model.config), **trained), loaded.tokenizer


def teacher_pruning(config: Config, shape: DecoderConfig) -> Pruning:
    """Returns which layers of the teacher are fine-tuned.

    Raises:
        InputError: if it has not as many.
    """
    layers = config.answers.teacher_layers or shape.num_layers
    if layers > shape.num_layers:
        raise InputError(
            f"answers.teacher_layers={layers} must be at most the {shape.num_layers} layers of {config.teacher.model}; "
            "lower it"
        )
    return Pruning(tuple(range(layers)))


def _probabilities(config: Config, answers: Answers, console: Console) -> np.ndarray:
    """Returns the teacher's, float32 `[answers, classes]`, from the file that holds them where it is this run's."""
    asked = {"teacher": config.teacher.model_dump(mode="json"), "answers": config.answers.model_dump(mode="json")}
    content = json.dumps([asked, config.seed, answers.texts, answers.scores.tolist()])
    digest = hashlib.sha256(content.encode()).hexdigest()
    path = config.run_dir / PROBABILITIES_NAME
    try:
        with np.load(path) as kept:
            if str(kept["digest"]) == digest:
                return kept["probabilities"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        pass  # There is none, or it was cut short: the teacher is asked again.
    logits = _fine_tuned(config, answers, console).logits(answers.texts)
    probabilities = np.asarray(jax.nn.softmax(logits, axis=-1))
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}")
    with unfinished.open("wb") as file:
        np.savez(file, probabilities=probabilities, digest=np.array(digest))
    unfinished.replace(path)
    return probabilities
