import json

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import AutoConfig, AutoModelForCausalLM

from atkd_jax.errors import InputError
from atkd_jax.interop import export_adapter, load_model
from atkd_jax.models import TARGETS, add_adapters

peft = pytest.importorskip("peft")
SIZES = {
    "vocab_size": 301,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.2,
}
TOKENS = np.random.default_rng(0).integers(0, 301, (2, 20)).astype(np.int32)


@pytest.fixture
def saved(tmp_path):
    """A base model of a family by transformers, saved; and ours out of it with adapters that say something."""

    def make(family, targets, **settings):
        torch.manual_seed(0)
        config = AutoConfig.for_model(family, **settings)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
        model = load_model(tmp_path / "base")
        add_adapters(model, rank=3, alpha=5.0, targets=targets, rngs=nnx.Rngs(1))
        adapters = nnx.state(model, nnx.LoRAParam)
        keys = iter(jax.random.split(jax.random.key(2), 20))
        nnx.update(model, jax.tree.map(lambda leaf: 0.3 * jax.random.normal(next(keys), leaf.shape), adapters))
        return model

    return make


ALL = tuple(TARGETS)
UNGATED = tuple(name for name in TARGETS if name != "gate")
GPT2_SIZES = {"vocab_size": 301, "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.2}


@pytest.mark.parametrize(
    ("family", "targets", "settings"),
    [
        ("llama", ALL, {**SIZES, "num_key_value_heads": 2, "head_dim": 12}),
        ("qwen2", ("query", "value", "down"), {**SIZES, "num_key_value_heads": 2}),
        ("phi3", ("query", "value", "output", "up"), {**SIZES, "num_key_value_heads": 2, "pad_token_id": None}),
        ("gpt_neox", UNGATED, SIZES),
        ("gpt2", UNGATED, GPT2_SIZES),
        ("opt", ("key", "up", "down"), {**SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32, "init_std": 0.2}),
    ],
)
@pytest.mark.filterwarnings("ignore")  # peft's and torch's own
def test_peft_gives_our_logits(saved, tmp_path, tiny_tokenizer, family, targets, settings):
    model = saved(family, targets, **settings)
    base = str(tmp_path / "base")
    export_adapter(model, tmp_path / "adapter", base=base, tokenizer=tiny_tokenizer, model_card="# A card\n")
    theirs = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter", dtype=torch.float32).eval()
    with torch.no_grad():
        expected = theirs(torch.from_numpy(TOKENS).long()).logits.numpy()
        with theirs.disable_adapter():
            without = theirs(torch.from_numpy(TOKENS).long()).logits.numpy()
    np.testing.assert_allclose(np.asarray(model(TOKENS)), expected, atol=1e-4, rtol=1e-4)
    assert np.abs(expected - without).max() > 1e-2
    facts = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert facts["base_model_name_or_path"] == base
    assert (tmp_path / "adapter" / "README.md").read_text() == "# A card\n"


def test_a_second_adapter_takes_the_place_of_the_first(saved, tmp_path, tiny_tokenizer):
    model = saved("llama", ("query",), **SIZES)
    for _ in range(2):
        export_adapter(model, tmp_path / "adapter", base="org/base", tokenizer=tiny_tokenizer, model_card="")
    names = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "README.md"} <= names


def test_a_model_without_adapters_is_refused(saved, tmp_path, tiny_tokenizer):
    saved("llama", ("query",), **SIZES)
    plain = load_model(tmp_path / "base")
    with pytest.raises(InputError, match="a model without adapters cannot be written as one; export its full weights"):
        export_adapter(plain, tmp_path / "adapter", base="x", tokenizer=tiny_tokenizer, model_card="")
