import math

import jax
import pytest
import torch
import transformers
from flax import nnx

from atkd_jax.interop.published import PUBLISHED
from atkd_jax.models import Decoder

# As their publishers count them; with tied embeddings these count once.
COUNTS = {
    "meta-llama/Meta-Llama-3-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-70B": 70_553_706_496,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "facebook/opt-125m": 125_239_296,
    "EleutherAI/pythia-410m": 405_334_016,
}


def parameters_of(name):
    model = nnx.eval_shape(lambda: Decoder(PUBLISHED[name].shape, rngs=nnx.Rngs(0)))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model)))


@pytest.mark.parametrize("name", COUNTS)
def test_a_published_model_has_as_many_parameters_as_published(name):
    assert parameters_of(name) == COUNTS[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_transformers_counts_as_many(name):
    raw = dict(PUBLISHED[name].raw)
    config = transformers.AutoConfig.for_model(raw.pop("model_type"), **raw)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    assert parameters_of(name) == sum(parameter.numel() for parameter in model.parameters())
    assert PUBLISHED[name].tokenizer_size <= raw["vocab_size"]
