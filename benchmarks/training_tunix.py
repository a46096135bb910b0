"""Tunix's side of the benchmark of whole steps: its DistillationTrainer in its own loop, on given batches.

Needs what `training_tunix.txt` names.
"""

import json
import sys
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tunix.distillation import distillation_trainer, strategies
from tunix.models.llama3 import model as llama3
from tunix.models.llama3 import params as llama3_params
from tunix.sft import hooks

from benchmarks.training_turns import Turns

ORIGINAL_ROPE = llama3.apply_rope


def load(directory: str) -> llama3.Llama3:
    """Returns a model in float32, without rematerialisation."""
    config = json.loads((Path(directory) / "config.json").read_text())
    theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
    # The model does not pass its config's rope_theta on; without it the losses would not be equal.
    llama3.apply_rope = partial(ORIGINAL_ROPE, rope_theta=theta)
    shape = llama3.ModelConfig(
        num_layers=config["num_hidden_layers"],
        vocab_size=config["vocab_size"],
        embed_dim=config["hidden_size"],
        hidden_dim=config["intermediate_size"],
        num_heads=config["num_attention_heads"],
        head_dim=config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"],
        num_kv_heads=config["num_key_value_heads"],
        rope_theta=theta,
        norm_eps=config["rms_norm_eps"],
        weight_tying=config["tie_word_embeddings"],
    )
    return llama3_params.create_model_from_safe_tensors(directory, shape, dtype=jnp.float32)


def logits_of(model: nnx.Module, input_tokens: jax.Array, input_mask: jax.Array) -> jax.Array:
    """Returns a model's logits of rows that are one document each."""
    length = input_tokens.shape[1]
    positions = jnp.broadcast_to(jnp.arange(length), input_tokens.shape)
    causal = jnp.broadcast_to(jnp.tril(jnp.ones((length, length), bool)), (input_tokens.shape[0], length, length))
    return model(input_tokens, positions, None, causal)[0]


def labels_of(input_tokens: jax.Array, input_mask: jax.Array, *, vocab_size: int) -> jax.Array:
    """Returns the words that the cross-entropy, which has no weight here, is measured with."""
    return jax.nn.one_hot(jnp.roll(input_tokens, -1, axis=1), vocab_size)


class Losses(hooks.TrainingHooks):
    """Keeps the last loss that the trainer reports."""

    def __init__(self):
        self.last: dict[str, float] = {}

    def on_train_start(self, train_ctx): ...
    def on_train_end(self, train_ctx): ...
    def on_train_step_start(self, train_ctx): ...
    def on_eval_step_start(self, train_ctx): ...
    def on_eval_step_end(self, train_ctx, eval_loss): ...

    def on_train_step_end(self, train_ctx, train_step, train_loss):
        self.last = {"loss": float(train_loss)}


def batches_in_turns(
    batches: np.ndarray, turns: Turns, trainer: Any, losses: Losses
) -> Iterator[distillation_trainer.TrainingInput]:
    """Yields as many batches as each turn has steps; a turn ends when its last step has."""
    versions = {"google-tunix": version("google-tunix"), "jax": jax.__version__}
    taken = 0
    while True:
        jax.block_until_ready(nnx.state(trainer.model))
        for _ in range(turns.next(versions=versions, **losses.last)):
            tokens = batches[taken % len(batches)]
            taken += 1
            yield distillation_trainer.TrainingInput(input_tokens=tokens, input_mask=np.ones_like(tokens))


def main(path: Path) -> None:
    """Trains until there is no turn left."""
    workload = json.loads(path.read_text())
    turns = Turns()
    student, teacher = load(workload["student"]), load(workload["teacher"])
    strategy = strategies.LogitStrategy(
        student_forward_fn=logits_of,
        teacher_forward_fn=logits_of,
        labels_fn=partial(labels_of, vocab_size=student.config.vocab_size),
        temperature=1.0,
        alpha=1.0,
    )
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1e-3, 10, 10**6, 1e-4)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.95, weight_decay=0.0))
    settings = distillation_trainer.TrainingConfig(eval_every_n_steps=10**6, max_steps=10**6)
    trainer = distillation_trainer.DistillationTrainer(student, teacher, strategy, optimizer, settings)
    losses = Losses()
    trainer.with_training_hooks(losses)
    trainer.train(batches_in_turns(np.load(workload["batches"]), turns, trainer, losses))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
