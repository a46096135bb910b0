import dataclasses

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from llama_oracle import GROUPED, make_pair
from torch.utils.flop_counter import FlopCounterMode

from atkd_jax.models import Decoder
from atkd_jax.models.attention import attention_mask
from atkd_jax.models.flops import distillation_flops, forward_flops


@pytest.mark.parametrize("changes", [{}, {"num_kv_heads": 1, "head_dim": 20}, {"tie_embeddings": True}])
def test_pytorch_counts_the_same(changes):
    config = dataclasses.replace(GROUPED, **changes)
    oracle = make_pair(config)[1]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        oracle(torch.zeros((3, 1), dtype=torch.long))
    cost = forward_flops(config, length=1)
    assert 3 * (cost.layers + cost.head) == counter.get_total_flops()


@pytest.mark.parametrize(
    "changes",
    [
        {"gated_mlp": False, "embed_width": 12},
        {"num_experts": 4, "experts_per_token": 4},
        {"positions": "learned", "tie_embeddings": True},
    ],
)
def test_every_weight_of_a_product_is_two_operations(changes):
    config = dataclasses.replace(GROUPED, **changes)
    model = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))
    matrices = [leaf for leaf in jax.tree.leaves(nnx.state(model.layers)) if leaf.ndim > 2]
    for name in ("project_in", "project_out"):
        matrices += jax.tree.leaves(nnx.state(getattr(model, name))) if hasattr(model, name) else []
    own = 4 * config.num_layers * config.num_heads * config.head_dim
    assert forward_flops(config, length=1).layers == 2 * sum(leaf.size for leaf in matrices) + own
    assert forward_flops(config, length=1).head == 2 * config.vocab_size * config.head_width


@pytest.mark.parametrize("window", [None, 1, 5, 40])
def test_attention_counts_what_its_mask_leaves(window):
    length = 17
    config = dataclasses.replace(GROUPED, window=window)
    ones, slots = np.ones((1, length), np.int32), np.arange(length)
    seen = attention_mask(query_segments=ones, key_segments=ones, query_slots=slots, key_slots=slots, window=window)
    per_pair = 4 * config.num_layers * config.num_heads * config.head_dim
    found = length * (forward_flops(config, length=length).layers - forward_flops(config, length=1).layers)
    assert found == pytest.approx(per_pair * (int(seen.sum()) - length))


def test_a_step_is_three_passes_of_the_student_and_one_of_the_teacher():
    small = dataclasses.replace(GROUPED, num_layers=1)
    student, teacher = (forward_flops(config, length=8) for config in (small, GROUPED))
    found = distillation_flops(student=small, teacher=GROUPED, length=8, tokens=100, counted_tokens=30)
    assert found == 3 * (100 * student.layers + 30 * student.head) + 100 * teacher.layers + 30 * teacher.head
    read = {"teacher": GROUPED, "runs_teacher_layers": False}
    found = distillation_flops(student=small, **read, length=8, tokens=100, counted_tokens=30)
    assert found == 3 * (100 * student.layers + 30 * student.head) + 30 * teacher.head
