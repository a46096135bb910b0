import dataclasses
import json

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from tokenizers import Regex, pre_tokenizers
from transformers import AutoModelForCausalLM

from atkd_jax.errors import InputError
from atkd_jax.interop import export_gguf, load_model, load_tokenizer
from atkd_jax.interop.gguf_conversion import convert_gguf
from atkd_jax.interop.gguf_tokenizer import _patterns
from atkd_jax.models import Decoder, DecoderConfig, LinearRopeScaling, Llama3RopeScaling, LongRopeScaling
from atkd_jax.models.rope_scaling import longrope_amplitude

from .conftest import make_tokenizer

SHAPE = {
    "vocab_size": 310,
    "width": 32,
    "num_layers": 4,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "mlp_width": 48,
    "rope_theta": 5000.0,
}
GEMMA = {
    "norm": "rms_centred",
    "norm_placement": "sandwich",
    "norm_eps": 1e-6,
    "scale_embeddings": True,
    "activation": "gelu_tanh",
    "query_scalar": 8,
    "window": 5,
}
LONG = LongRopeScaling((1.0, 1.1, 1.25), (2.5, 10.0, 60.3), 512, longrope_amplitude(4.0, 512))
BIASED = {
    "norm": "layer",
    "num_kv_heads": 4,
    "gated_mlp": False,
    "mlp_bias": True,
    "qkv_bias": True,
    "output_bias": True,
}
SWITCHES = {
    "llama": {"head_dim": 12, "tie_embeddings": True},
    "llama 3": {"family": "llama", "rope_scaling": Llama3RopeScaling(32.0, 1.0, 4.0, 8192), "head_dim": 64},
    "mistral": {"norm_eps": 1e-6},
    "qwen2": {"qkv_bias": True, "head_dim": 6},
    "qwen3": {"qk_norm": "head", "head_dim": 12},
    "olmo2": {"norm_placement": "branch", "qk_norm": "all_heads"},
    "smollm3": {"rotary_layers": (True, True, True, False)},
    "gemma2": GEMMA
    | {"attention_softcap": 20.0, "logit_softcap": 10.0, "tie_embeddings": True}
    | {"windowed_layers": (True, False, True, False), "rope_scaling": LinearRopeScaling(8.0)},
    "gemma3_text": GEMMA
    | {"num_layers": 6, "windowed_layers": (True, True, True, True, True, False), "qk_norm": "head"}
    | {"local_rope_theta": 20_000.0, "rope_scaling": LinearRopeScaling(8.0)},
    "phi3": {"rope_scaling": LONG, "rotary_dim": 6, "window": 7},
    "phi3, as it was first": {"family": "phi3", "tie_embeddings": True},
    "gpt_neox": BIASED | {"activation": "gelu", "rotary_dim": 2, "parallel_residual": True},
    "gpt2": BIASED
    | {"activation": "gelu_tanh", "positions": "learned", "rope_theta": 10_000.0, "tie_embeddings": True},
}
HEADS_256 = {"head_dim": 256, "query_scalar": 256, "num_heads": 2, "num_kv_heads": 1}
# Those of which transformers reads GGUF files, with the only sizes of heads that it reads there.
KNOWN_TO_TRANSFORMERS = {
    "llama": {},
    "qwen2": {"head_dim": 8},
    "qwen3": {"head_dim": 128},
    # Of what such files say it does not read soft caps and linear scaling, nor a window of Phi-3's or its factors.
    "gemma2": HEADS_256 | {"attention_softcap": 50.0, "logit_softcap": 30.0, "rope_scaling": None},
    "gemma3_text": HEADS_256 | {"local_rope_theta": 10_000.0, "rope_scaling": None},
    "phi3, as it was first": {},
    "gpt2": {"mlp_width": 128, "max_position": 1024},  # the only shape that it knows for a width
}


def make(name, **changes):
    """A model whose numbers float16 holds, so that nothing is lost on the way."""
    config = DecoderConfig(**{**SHAPE, "family": name, **SWITCHES[name], **changes})
    graphdef, params = nnx.split(Decoder(config, rngs=nnx.Rngs(0)))
    random = np.random.default_rng(0)

    def draw(leaf):
        return jnp.asarray((random.normal(size=leaf.shape) * 0.3).astype(np.float16).astype(np.float32))

    return nnx.merge(graphdef, jax.tree.map(draw, params))


@pytest.mark.parametrize("name", SWITCHES)
def test_what_is_written_is_read_back(name, tmp_path, tiny_tokenizer):
    model = make(name)
    export_gguf(model, tmp_path / "student.gguf", tokenizer=tiny_tokenizer, name="a student")
    assert [path.name for path in tmp_path.iterdir()] == ["student.gguf"]
    convert_gguf(tmp_path / "student.gguf", tmp_path / "model", model_card="")
    back = load_model(tmp_path / "model")
    family = "llama" if name == "mistral" else model.config.family
    assert back.config == dataclasses.replace(model.config, family=family)
    for ours, theirs in zip(jax.tree.leaves(nnx.state(back)), jax.tree.leaves(nnx.state(model)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    text = "def add(a, b): return 12 <think><|e|>"
    tokenizer = load_tokenizer(tmp_path / "model")
    assert tokenizer(text)["input_ids"] == tiny_tokenizer(text)["input_ids"]
    assert tokenizer.chat_template == tiny_tokenizer.chat_template


@pytest.mark.parametrize("name", KNOWN_TO_TRANSFORMERS)
def test_transformers_reads_the_file_and_gives_our_logits(name, tmp_path, tiny_tokenizer):
    model = make(name, **KNOWN_TO_TRANSFORMERS[name])
    export_gguf(model, tmp_path / "student.gguf", tokenizer=tiny_tokenizer, name="a student")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="student.gguf", dtype=torch.float32)
    tokens = np.arange(24)[None]
    with torch.no_grad():
        expected = theirs(torch.from_numpy(tokens)).logits.numpy()
    np.testing.assert_allclose(model(jnp.asarray(tokens, jnp.int32)), expected, atol=1e-3, rtol=1e-3)


def test_matrices_are_float16_and_the_rest_float32(tmp_path, tiny_tokenizer):
    export_gguf(make("qwen2"), tmp_path / "student.gguf", tokenizer=tiny_tokenizer, name="a student")
    reader = gguf.GGUFReader(tmp_path / "student.gguf")
    kinds = {len(tensor.shape): tensor.tensor_type for tensor in reader.tensors}
    assert kinds == {1: gguf.GGMLQuantizationType.F32, 2: gguf.GGMLQuantizationType.F16}
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "qwen2"
    assert fields["general.name"] == "a student"
    assert fields["qwen2.attention.key_length"] == 6
    assert fields["tokenizer.ggml.tokens"][-1] == "[PAD309]"  # as many as the embedding has rows
    assert fields["tokenizer.ggml.token_type"][-1] == 5


def fields_and_tensors(file):
    reader = gguf.GGUFReader(file)
    return {name: field.contents() for name, field in reader.fields.items()}, {
        each.name: each for each in reader.tensors
    }


def test_what_the_converter_changes_is_changed(tmp_path, tiny_tokenizer):
    """The names and numbers of `Gemma3Model`, `Phi3MiniModel` and `GPTNeoXModel` in llama.cpp's conversion/."""
    model = make("gemma3_text")
    export_gguf(model, tmp_path / "gemma.gguf", tokenizer=tiny_tokenizer, name="a student")
    fields, tensors = fields_and_tensors(tmp_path / "gemma.gguf")
    norms = {"attn_norm": "attention_norm", "post_attention_norm": "attention_post_norm"}
    norms |= {"ffn_norm": "mlp_norm", "post_ffw_norm": "mlp_post_norm"}
    for theirs, ours in norms.items():
        expected = 1 + getattr(model.layers, ours).scale[...][2]
        np.testing.assert_array_equal(tensors[f"blk.2.{theirs}.weight"].data, expected)
    np.testing.assert_array_equal(
        tensors["blk.2.attn_q_norm.weight"].data, 1 + model.layers.attention.query_norm.scale[...][2]
    )
    np.testing.assert_array_equal(tensors["output_norm.weight"].data, 1 + model.final_norm.scale[...])
    assert fields["gemma3.attention.sliding_window"] == 5
    assert (fields["gemma3.rope.scaling.type"], fields["gemma3.rope.scaling.factor"]) == ("linear", 8.0)

    model = make("phi3")
    export_gguf(model, tmp_path / "phi.gguf", tokenizer=tiny_tokenizer, name="a student")
    fields, tensors = fields_and_tensors(tmp_path / "phi.gguf")
    attention = model.layers.attention
    expected = [each.kernel[...][1].reshape(32, -1).T for each in (attention.query, attention.key, attention.value)]
    np.testing.assert_array_equal(tensors["blk.1.attn_qkv.weight"].data, np.concatenate(expected))
    expected = [each.kernel[...][1].T for each in (model.layers.mlp.gate, model.layers.mlp.up)]
    np.testing.assert_array_equal(tensors["blk.1.ffn_up.weight"].data, np.concatenate(expected))
    np.testing.assert_array_equal(tensors["rope_factors_long.weight"].data, np.float32(LONG.long_factors))
    np.testing.assert_array_equal(tensors["rope_factors_short.weight"].data, np.float32(LONG.short_factors))
    assert fields["phi3.rope.scaling.original_context_length"] == 512
    assert fields["phi3.rope.scaling.attn_factor"] == pytest.approx(LONG.amplitude, rel=1e-6)
    assert (fields["phi3.rope.dimension_count"], fields["phi3.attention.sliding_window"]) == (6, 7)
    assert "phi3.attention.key_length" not in fields

    model = make("gpt_neox")
    export_gguf(model, tmp_path / "neox.gguf", tokenizer=tiny_tokenizer, name="a student")
    fields, tensors = fields_and_tensors(tmp_path / "neox.gguf")
    attention = model.layers.attention
    expected = [each.kernel[...][1].reshape(32, -1).T for each in (attention.query, attention.key, attention.value)]
    np.testing.assert_array_equal(tensors["blk.1.attn_qkv.weight"].data, np.concatenate(expected))
    expected = [each.bias[...][1].reshape(-1) for each in (attention.query, attention.key, attention.value)]
    np.testing.assert_array_equal(tensors["blk.1.attn_qkv.bias"].data, np.concatenate(expected))
    assert (fields["gptneox.rope.dimension_count"], fields["gptneox.use_parallel_residual"]) == (2, True)


def split_by(pattern):
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


@pytest.mark.parametrize("name", ["llama-bpe", "qwen2", "tekken"])
def test_text_is_split_as_the_tokenizer_splits_it(name, tmp_path):
    tokenizer = split_by(_patterns()[name])
    export_gguf(make("llama"), tmp_path / "student.gguf", tokenizer=tokenizer, name="a student")
    convert_gguf(tmp_path / "student.gguf", tmp_path / "model", model_card="")
    rules = [json.loads(each.backend_tokenizer.to_str()) for each in (tokenizer, load_tokenizer(tmp_path / "model"))]
    assert rules[0]["pre_tokenizer"] == rules[1]["pre_tokenizer"]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: make("mistral", window=5), r"architecture llama means window=None, but the student has 5; export"),
        (lambda: make("smollm3", rotary_layers=(True,) * 4), r"means rotary_layers=\(True, True, True, False\), but"),
        (
            lambda: make("gpt2", family="opt", position_offset=2, activation="relu"),
            "writes the families llama, .*of opt",
        ),
        (lambda: make("gemma2", query_scalar=9), "architecture gemma2 means query_scalar=8, but the student has 9"),
        (lambda: make("gemma2", tie_embeddings=False), "means tie_embeddings=True, but the student has False"),
        (lambda: make("gemma2", logit_softcap=None), r"means logit_softcap=30\.0, but the student has None"),
        (
            lambda: make("phi3, as it was first", head_dim=6),
            "architecture phi3 means head_dim=8, but the student has 6",
        ),
        (lambda: make("llama", rope_scaling=LONG, head_dim=6), "means rope_scaling=None, but the student has LongRope"),
    ],
)
def test_what_a_file_cannot_say_is_refused(model, words, tmp_path, tiny_tokenizer):
    with pytest.raises(InputError, match=words):
        export_gguf(model(), tmp_path / "student.gguf", tokenizer=tiny_tokenizer, name="a student")
    assert not list(tmp_path.iterdir())


def test_what_float16_does_not_hold_is_refused(tmp_path, tiny_tokenizer):
    model = make("llama")
    model.layers.mlp.up.kernel[...] = model.layers.mlp.up.kernel[...].at[0, 0, 0].set(1e5)
    with pytest.raises(InputError, match=r"mlp\.up_proj\.weight must fit into float16, but has numbers beyond 65,504"):
        export_gguf(model, tmp_path / "student.gguf", tokenizer=tiny_tokenizer, name="a student")
    assert not list(tmp_path.iterdir())


def test_another_splitting_of_text_is_refused(tmp_path):
    with pytest.raises(InputError, match="byte-level BPE tokenizers that split text as GPT-2, SmolLM, llama-bpe"):
        export_gguf(make("llama"), tmp_path / "student.gguf", tokenizer=split_by(r"\w+"), name="a student")
