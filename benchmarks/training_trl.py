"""TRL's side of the benchmark of whole steps: its own trainers in its own loop, on given batches.

`gkd` is `GKDTrainer` with `lmbda=0`, which learns from the batch as it is. `distillation` is the newer
`DistillationTrainer`, whose loss goes over the vocabulary in tiles; it always generates what it learns from, so that
here the given tokens take the place of those that it would have generated. Needs what `training_trl.txt` names.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DistillationConfig, DistillationTrainer
from trl.experimental.gkd import GKDConfig, GKDTrainer

from benchmarks.training_turns import Turns

SETTINGS = {
    "per_device_train_batch_size": 1,
    "max_steps": 10**6,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "adam_beta2": 0.95,
    "warmup_steps": 10,
    "beta": 0.0,
    "temperature": 1.0,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "max_grad_norm": 1.0,
    "remove_unused_columns": False,
    "optim": "adamw_torch_fused",
}


class Timed(TrainerCallback):
    """Lets the trainer's own loop take as many steps as each turn has."""

    def __init__(self, turns: Turns):
        self._turns, self._left = turns, 0
        self._versions = {"torch": torch.__version__, "transformers": transformers.__version__, "trl": trl.__version__}
        self._losses: dict[str, float] = {}

    def on_train_begin(self, args, state, control, **kwargs):
        self._left = self._turns.next(versions=self._versions)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self._losses = {"loss": float(logs["loss"])}
            # The loss is logged after the step has ended.
            if not self._left:
                self._left = self._turns.next(**self._losses)

    def on_step_end(self, args, state, control, **kwargs):
        self._left -= 1


def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
    """Makes the batch in the form that both trainers read: a prompt of one token, then the completion."""
    (row,) = rows
    tokens = torch.tensor(row["tokens"], dtype=torch.long)
    labels = tokens.clone()
    labels[:, 0] = -100
    ones = torch.ones_like(tokens)
    return {
        "input_ids": tokens,
        "attention_mask": ones,
        "labels": labels,
        "prompts": tokens[:, :1],
        "prompt_attention_mask": ones[:, :1],
    }


class InOrder:
    """A trainer that takes the batches as they stand, in their order."""

    def get_train_dataloader(self):
        return torch.utils.data.DataLoader(self.train_dataset, batch_size=1, collate_fn=collate)


class GivenBatches(InOrder, GKDTrainer):
    """The trainer as it is."""


class GivenCompletions(InOrder, DistillationTrainer):
    """The trainer without its generation."""

    def _prepare_inputs(self, inputs):
        tokens, mask = inputs["input_ids"], inputs["attention_mask"]
        return {
            "prompt_ids": tokens[:, :1],
            "prompt_mask": mask[:, :1],
            "completion_ids": tokens[:, 1:],
            "completion_mask": mask[:, 1:],
            "num_items_in_batch": mask[:, 1:].sum().float(),
        }


def main(path: Path, trainer_name: str) -> None:
    """Trains until there is no turn left."""
    timed = Timed(Turns())
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    workload = json.loads(path.read_text())
    models = {
        name: AutoModelForCausalLM.from_pretrained(workload[name], dtype=torch.float32)
        for name in ("student", "teacher")
    }
    tokenizer = AutoTokenizer.from_pretrained(workload["teacher"], padding_side="left")
    batches = np.load(workload["batches"])
    dataset = Dataset.from_list([{"prompt": "", "tokens": batch.tolist()} for batch in batches])
    with tempfile.TemporaryDirectory() as folder:
        common = {
            "model": models["student"],
            "teacher_model": models["teacher"],
            "train_dataset": dataset,
            "processing_class": tokenizer,
            "callbacks": [timed],
        }
        if trainer_name == "gkd":
            settings = {"lmbda": 0.0, "dataset_kwargs": {"skip_prepare_dataset": True}}
            args = GKDConfig(output_dir=folder, **SETTINGS, **settings)
            trainer = GivenBatches(args=args, data_collator=collate, **common)
        else:
            trainer = GivenCompletions(args=DistillationConfig(output_dir=folder, **SETTINGS), **common)
        trainer.train()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
