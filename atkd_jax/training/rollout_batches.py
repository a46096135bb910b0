"""Batches of which some rows hold text that the student, the teacher or both have just written.

Which rows those are and what they say depends on the seed, the step, the row and the weights of that step alone. So a
run that goes on from a checkpoint writes what it would have written; kept besides is only the buffer of old texts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from atkd_jax.config import RolloutConfig
from atkd_jax.data import Template
from atkd_jax.generation import (
    Ending,
    Plan,
    RolloutWriter,
    Text,
    make_knobs,
    prompts_of_rows,
    with_corpus,
    with_texts,
)
from atkd_jax.models import Decoder
from atkd_jax.sharding import Meshes, RowShare, gathered, row_share
from atkd_jax.training.shared_batches import SharedBatches
from atkd_jax.training.state import TrainState

Step = Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, dict[str, Any]]]


class RolloutSettings(NamedTuple):
    """What is written, and how often.

    Attributes:
        fraction: the probability that a row's response is a model's, at first.
        fraction_step: what is added to it when the validation loss has risen.
        fraction_tolerance: by how much it must have risen.
        buffer_size: how many texts are kept to be learned from again; 0 keeps none.
        steps: of the whole run, over which new texts become rarer where there is a buffer.
        padding_id: fills rows up.
        seed: of what is drawn.
    """

    fraction: float
    fraction_step: float
    fraction_tolerance: float
    buffer_size: int
    steps: int
    padding_id: int
    seed: int


class RolloutBatches(Iterator[dict[str, np.ndarray]]):
    """The data's batches, and the buffer; `before` puts a model's text into them between two steps."""

    def __init__(
        self,
        batches: SharedBatches,
        *,
        writer: RolloutWriter,
        params_of: Callable[[Any], tuple[Any, ...]],
        share: RowShare,
        settings: RolloutSettings,
        corpus: SharedBatches | None = None,
    ):
        """Wraps the data's batches.

        Args:
            batches: Unpacked rows.
            writer: Who writes.
            params_of: The student's weights -> those of all who write.
            share: Which rows of the global batch this process has.
            settings: The rest.
            corpus: Rows of plain text, which stand where no model writes, in place of the data's responses.
        """
        self._batches, self._writer, self._params_of = batches, writer, params_of
        self._share, self._settings = share, settings
        self._corpus = corpus
        self._buffer: list[Text] = []
        self._fraction, self._validation_loss = settings.fraction, None

    @property
    def knows_validation_loss(self) -> bool:
        """Whether there is a loss that the next one can be compared with, or the fraction does not go by it."""
        return self._validation_loss is not None or not self._settings.fraction_step

    def hear_validation_loss(self, loss: float) -> None:
        """Raises the fraction where the loss has risen since it was last set, as DistiLLM does."""
        if self._validation_loss is None:
            self._validation_loss = loss
        elif self._settings.fraction_step and loss >= self._validation_loss + self._settings.fraction_tolerance:
            self._fraction = min(self._fraction + self._settings.fraction_step, 1.0)
            self._validation_loss = loss

    def __next__(self) -> dict[str, np.ndarray]:
        return next(self._batches)

    def before(self, step: Step, place: Callable[[dict[str, np.ndarray]], dict[str, jax.Array]]) -> Step:
        """Returns a step that takes a batch as the data has it, and learns from it with rollouts in it."""

        def with_rollouts(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Any]]:
            number = int(state.step)  # Waits for the step before, whose time is not that of writing.
            began = time.monotonic()
            batch, numbers = self._rolled_out(state.params, number, batch)
            numbers["rollout/seconds"] = time.monotonic() - began
            state, values = step(state, place(batch))
            return state, values | numbers

        return with_rollouts

    def _rolled_out(
        self, params: Any, step: int, batch: dict[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        prompts = prompts_of_rows(batch)
        first_row = self._share.index * len(prompts)
        known = gathered({str(first_row + row): prompt for row, prompt in enumerate(prompts) if prompt})
        everyone = {int(row): prompt for part in known for row, prompt in part.items()}
        old, wanted = self._drawn(step, sorted(everyone))
        answers = []
        if wanted:
            key = jax.random.fold_in(jax.random.key(self._settings.seed), step)
            answers = self._writer(self._params_of(params), [everyone[row] for row in wanted], key, wanted)
        new = {row: Text(everyone[row], answer) for row, answer in zip(wanted, answers, strict=True)}
        size = self._settings.buffer_size
        self._buffer = [*self._buffer, *new.values()][-size:] if size else []
        own = {row - first_row: text for row, text in {**old, **new}.items() if 0 <= row - first_row < len(prompts)}
        lengths = [len(text.answer) for text in new.values()]
        numbers = {
            "rollout/written_rows": float(len(new)),
            "rollout/buffered_rows": float(len(old)),
            "rollout/fraction": self._fraction,
            "rollout/mean_tokens": float(np.mean(lengths)) if lengths else 0.0,
            "rollout/compilations": float(self._writer.compilations),
        }
        filled = with_texts(batch, own, padding_id=self._settings.padding_id)
        return filled if self._corpus is None else with_corpus(filled, next(self._corpus)), numbers

    def _drawn(self, step: int, rows: list[int]) -> tuple[dict[int, Text], list[int]]:
        """Returns the old texts that stand in some rows, and the rows for which new ones are written."""
        old, wanted = {}, []
        still_new = 1.0 - step / self._settings.steps if self._settings.buffer_size else 1.0
        for row in rows:
            chance, novelty, place = np.random.default_rng([self._settings.seed, step, row]).random(3)
            if chance >= self._fraction:
                continue
            if novelty < still_new or len(self._buffer) < self._settings.buffer_size:
                wanted.append(row)
            else:
                old[row] = self._buffer[int(place * len(self._buffer))]
        return old, wanted

    def get_state(self) -> Any:
        """Returns the positions of data and corpus, the buffer and the fraction; every process must call it."""
        state = {"data": self._batches.get_state(), "buffer": [list(text) for text in self._buffer]}
        state |= {"fraction": self._fraction, "validation_loss": self._validation_loss}
        return state if self._corpus is None else state | {"corpus": self._corpus.get_state()}

    def set_state(self, state: Any) -> None:
        """Goes to where `get_state` was called."""
        self._batches.set_state(state["data"])
        self._buffer = [Text(*text) for text in state["buffer"]]
        self._fraction = state.get("fraction", self._settings.fraction)
        self._validation_loss = state.get("validation_loss")
        if self._corpus is not None:
            self._corpus.set_state(state["corpus"])

    @property
    def numbers(self) -> dict[str, int]:
        """What went through the data's rows."""
        return self._batches.numbers

    def metrics(self, numbers: Mapping[str, int]) -> dict[str, float]:
        """Returns the log's words for numbers that were added up over the processes."""
        return self._batches.metrics(numbers)

    def close(self) -> None:
        """Ends the thread that makes batches ahead."""
        self._batches.close()
        if self._corpus is not None:
            self._corpus.close()


def rollout_batches(
    config: RolloutConfig,
    batches: SharedBatches,
    *,
    corpus: SharedBatches | None = None,
    form: Template,
    student: nnx.GraphDef[Decoder],
    teacher: nnx.GraphDef[Decoder],
    teacher_params: Any,
    vocab_size: int,
    meshes: Meshes,
    batch_size: int,
    steps: int,
    seed: int,
) -> RolloutBatches:
    """Returns the batches of a run whose config has an author other than the data.

    Args:
        config: Who writes, and how.
        batches: The data's, unpacked.
        corpus: Of plain text, for the rows that no model writes.
        form: How a response ends.
        student: The student's structure.
        teacher: The teacher's structure.
        teacher_params: Its weights.
        vocab_size: The tokenizer's number of ids.
        meshes: How the devices are arranged for each model.
        batch_size: Rows of the global batch.
        steps: Of the whole run.
        seed: Of what is drawn.
    """
    authors = {"student": (student,), "teacher": (teacher,), "mixed": (student, teacher)}
    weights: dict[str, Callable[[Any], tuple[Any, ...]]] = {
        "student": lambda params: (params,),
        "teacher": lambda _: (teacher_params,),
        "mixed": lambda params: (params, teacher_params),
    }
    mesh = meshes.teacher if config.author == "teacher" else meshes.student
    plan = Plan(
        models=authors[config.author],
        ending=Ending(config.max_new_tokens, form.stop_ids, form.padding_id),
        is_greedy=config.temperature == 0,
        top_k=config.top_k,
        teacher_weight=config.teacher_weight if config.author == "mixed" else None,
        vocab_size=vocab_size,
        unstack=config.unstack_layers,
        mesh=mesh if mesh.size > 1 else None,
    )
    knobs = make_knobs(config.temperature, config.top_p)
    return RolloutBatches(
        batches,
        writer=RolloutWriter(plan, knobs=knobs, most_rows=batch_size, mesh=plan.mesh),
        params_of=weights[config.author],
        share=row_share(meshes.student),
        settings=RolloutSettings(
            config.fraction,
            config.fraction_step,
            config.fraction_tolerance,
            config.buffer_size,
            steps,
            form.padding_id,
            seed,
        ),
        corpus=corpus,
    )
