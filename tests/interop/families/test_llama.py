import json
from pathlib import Path

import numpy as np
import pytest
import torch
from flax import nnx
from transformers import LlamaConfig, LlamaForCausalLM

from atkd_jax.interop.families.llama import LLAMA
from atkd_jax.models import Decoder, DecoderConfig, Llama3RopeScaling

CONFIG = DecoderConfig(
    vocab_size=50,
    width=12,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=6,
    mlp_width=20,
    norm_eps=1e-6,
    rope_theta=500_000.0,
    max_position=128,
)
SCALED = DecoderConfig(
    **(vars(CONFIG) | {"rope_scaling": Llama3RopeScaling(8.0, 1.0, 4.0, 64), "tie_embeddings": True})
)


@pytest.mark.parametrize("config", [CONFIG, SCALED])
def test_config_round_trip_through_json(config: DecoderConfig):
    assert LLAMA.read_config(json.loads(json.dumps(LLAMA.write_config(config)))) == config


@pytest.mark.parametrize("config", [CONFIG, SCALED])
def test_transformers_reads_the_config_alike(tmp_path: Path, config: DecoderConfig):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA.write_config(config)))
    read = LlamaConfig.from_pretrained(tmp_path)
    assert read.rope_parameters["rope_theta"] == config.rope_theta
    assert read.rope_parameters["rope_type"] == ("llama3" if config.rope_scaling else "default")
    read.save_pretrained(tmp_path)
    assert LLAMA.read_config(json.loads((tmp_path / "config.json").read_text())) == config


def test_what_old_configs_leave_out_has_its_old_meaning():
    raw = {
        "model_type": "llama",
        "vocab_size": 32000,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "rope_scaling": None,
    }
    theirs = LlamaConfig(**{key: value for key, value in raw.items() if key != "model_type"})
    ours = LLAMA.read_config(raw)
    assert ours.num_kv_heads == theirs.num_key_value_heads == 8
    assert ours.head_dim == theirs.head_dim == 8
    assert ours.norm_eps == theirs.rms_norm_eps
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]
    assert ours.max_position == theirs.max_position_embeddings
    assert ours.tie_embeddings == theirs.tie_word_embeddings


@pytest.mark.parametrize("config", [CONFIG, SCALED])
def test_the_table_names_every_tensor_of_transformers_with_its_shape(config: DecoderConfig):
    raw = LLAMA.write_config(config)
    with torch.device("meta"):
        reference = LlamaForCausalLM(LlamaConfig(**{key: value for key, value in raw.items() if key != "model_type"}))
    theirs = {name: tuple(tensor.shape) for name, tensor in reference.named_parameters()}
    ours = {name: weight.shape(config) for weight in LLAMA.weights(config) for name in weight.names(config)}
    assert ours == theirs


@pytest.mark.parametrize("config", [CONFIG, SCALED])
def test_the_table_names_every_parameter_and_its_layouts_are_inverse(config: DecoderConfig):
    model = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))
    slots = {".".join(path): slot.get_value().shape for path, slot in nnx.to_flat_state(nnx.state(model))}
    weights = {weight.path: weight for weight in LLAMA.weights(config)}
    assert weights.keys() == slots.keys()
    for path, shape in slots.items():
        weight = weights[path]
        assert weight.is_stacked == (shape[0] == config.num_layers and path.startswith("layers."))
        tensor_shape = weight.shape(config)
        tensor = np.arange(np.prod(tensor_shape)).reshape(tensor_shape)
        param = weight.layout.to_param(tensor, shape[1:] if weight.is_stacked else shape)
        np.testing.assert_array_equal(weight.layout.to_tensor(param, tensor_shape), tensor)
