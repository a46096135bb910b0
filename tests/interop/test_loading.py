import json
import tracemalloc
from math import prod
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from flax import nnx
from safetensors.numpy import load_file, save_file
from transformers import LlamaForCausalLM

from atkd_jax.errors import InputError
from atkd_jax.interop.loading import load_model, read_config
from atkd_jax.interop.tokenizer import load_tokenizer
from atkd_jax.models import Decoder, DecoderConfig, Llama3RopeScaling

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 8000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def logits_of(model: Decoder, tokens: np.ndarray) -> np.ndarray:
    graphdef, params = nnx.split(model)
    return np.asarray(jax.jit(lambda params, tokens: nnx.merge(graphdef, params)(tokens))(params, tokens))


def torch_logits_of(model: LlamaForCausalLM, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(tokens.astype(np.int64))).logits.float().numpy()


def random_tokens(vocab_size: int = 320, shape: tuple[int, int] = (2, 40)) -> np.ndarray:
    return np.random.default_rng(0).integers(vocab_size, size=shape).astype(np.int32)


@pytest.mark.parametrize(
    ("changes", "max_shard_size"),
    [
        ({}, "5GB"),
        ({"tie_word_embeddings": True}, "5GB"),
        ({}, "10KB"),
        ({"rope_parameters": LLAMA3, "num_key_value_heads": 1}, "5GB"),
        ({"num_hidden_layers": 1, "num_key_value_heads": 4, "head_dim": 6}, "5GB"),
    ],
)
def test_logits_are_those_of_transformers(saved_llama, changes: dict, max_shard_size: str):
    reference, directory = saved_llama(max_shard_size=max_shard_size, **changes)
    tokens = random_tokens()
    np.testing.assert_allclose(
        logits_of(load_model(directory), tokens), torch_logits_of(reference, tokens), atol=1e-4, rtol=0
    )


def test_weights_stored_in_bfloat16_are_read_exactly_and_cast_to_what_is_asked_for(saved_llama):
    _, directory = saved_llama(dtype=torch.bfloat16)
    reference = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32)
    model = load_model(directory)
    assert model.embedding.get_value().dtype == jnp.float32
    tokens = random_tokens()
    np.testing.assert_allclose(logits_of(model, tokens), torch_logits_of(reference, tokens), atol=1e-4, rtol=0)
    kept = load_model(directory, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16, remat="full")
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(kept))} == {jnp.dtype(jnp.bfloat16)}
    assert (kept.dtype, kept.remat) == (jnp.bfloat16, "full")
    np.testing.assert_array_equal(
        np.asarray(kept.embedding.get_value()), np.asarray(model.embedding.get_value()).astype(ml_dtypes.bfloat16)
    )


def test_every_parameter_is_placed_by_its_path(saved_llama):
    _, directory = saved_llama()
    asked = {}
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))

    def place(path: str, shape: tuple[int, ...]) -> jax.sharding.Sharding:
        asked[path] = shape
        last = "x" if shape[-1] % 2 == 0 else None
        return jax.sharding.NamedSharding(mesh, jax.P(*[None] * (len(shape) - 1), last))

    model = load_model(directory, param_dtype=jnp.bfloat16, place=place)
    slots = {".".join(path): slot.get_value() for path, slot in nnx.to_flat_state(nnx.state(model))}
    assert asked == {path: array.shape for path, array in slots.items()}
    whole = load_model(directory, param_dtype=jnp.bfloat16)
    for path, array in nnx.to_flat_state(nnx.state(whole)):
        mine = slots[".".join(path)]
        assert mine.sharding == place(".".join(path), mine.shape)
        np.testing.assert_array_equal(mine, array.get_value())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_host_never_holds_more_than_one_tensor_beside_the_model(saved_llama, dtype):
    settings = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 12, "vocab_size": 64}
    _, directory = saved_llama(dtype=dtype, **settings)
    tensor_bytes = 128 * 512 * 4
    load_model(directory)  # what tracing and compilation keep is no part of the measurement
    # NumPy's arrays are traced, and those that live on devices, the model, are not.
    tracemalloc.start()
    model = load_model(directory)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    total_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(model)))
    assert total_bytes > 30 * tensor_bytes
    # As it was read and as it was cast; the rest is Python's own.
    assert peak_bytes < 2 * tensor_bytes + 500_000


def test_the_config_is_read(saved_llama):
    _, directory = saved_llama(rope_parameters=LLAMA3, tie_word_embeddings=True)
    assert read_config(directory) == DecoderConfig(
        vocab_size=320,
        width=24,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        mlp_width=40,
        norm_eps=1e-5,
        rope_theta=8000.0,
        rope_scaling=Llama3RopeScaling(4.0, 1.0, 4.0, 64),
        max_position=256,
        tie_embeddings=True,
    )


def edit_config(directory: Path, **changes) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"model_type": "mamba"},
            r"config\.json must have a model_type among llama, .*, but has 'mamba'; choose",
        ),
        ({"model_type": None}, "must have a model_type among llama, .*, but has None"),
        ({"hidden_size": None}, "must have the key hidden_size, but does not"),
        ({"hidden_size": "24"}, "must have a value of type int at hidden_size, but has '24'"),
        ({"num_attention_heads": 0, "head_dim": None}, "config.json .*num_heads must be"),
        ({"hidden_act": "tanh"}, "must have one of silu, .* at hidden_act, the ones computed here, but has 'tanh'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "must describe plain float weights"),
        (
            {"rope_parameters": {"rope_type": "spiral", "factor": 2.0}},
            "default, linear, dynamic, llama3, yarn or longrope, .* type 'spiral'",
        ),
    ],
)
def test_a_config_that_is_not_computed_here_is_refused(saved_llama, changes: dict, words: str):
    _, directory = saved_llama()
    edit_config(directory, **changes)
    with pytest.raises(InputError, match=words):
        load_model(directory)


def rewrite(directory: Path, edit) -> None:
    tensors = load_file(directory / "model.safetensors")
    edit(tensors)
    save_file(tensors, directory / "model.safetensors")


def test_a_missing_tensor_is_named(saved_llama):
    _, directory = saved_llama()
    rewrite(directory, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(InputError, match=r"must hold the tensor model\.layers\.1\.mlp\.up_proj\.weight, which its con"):
        load_model(directory)


def test_a_tensor_of_a_wrong_shape_is_named(saved_llama):
    _, directory = saved_llama()
    edit_config(directory, vocab_size=321)
    with pytest.raises(InputError, match=r"model\.safetensors: the tensor .*embed_tokens.* \[321, 24\].* \[320, 24\]"):
        load_model(directory)


def test_a_surplus_tensor_that_would_change_the_answers_is_refused(saved_llama):
    _, directory = saved_llama()
    rewrite(directory, lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": np.ones(32, np.float32)}))
    with pytest.raises(InputError, match=r"has 1 more, model\.layers\.0\.self_attn\.q_proj\.bias among them"):
        load_model(directory)


def test_surplus_tensors_that_change_nothing_are_passed_over(saved_llama):
    reference, directory = saved_llama(tie_word_embeddings=True)

    def edit(tensors: dict) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)

    rewrite(directory, edit)
    tokens = random_tokens()
    np.testing.assert_allclose(
        logits_of(load_model(directory), tokens), torch_logits_of(reference, tokens), atol=1e-4, rtol=0
    )


def test_quantised_weights_are_refused(saved_llama):
    _, directory = saved_llama()
    rewrite(directory, lambda t: t.update({"model.norm.weight": np.ones(24, np.int8)}))
    with pytest.raises(InputError, match=r"the tensor model\.norm\.weight must be one of F64, F32, .*, but is I8"):
        load_model(directory)


def test_pickle_files_are_never_read(saved_llama):
    _, directory = saved_llama()
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(
        InputError, match=r"holds neither; convert the weights to safetensors, for pickle files are never"
    ):
        load_model(directory)


def test_a_truncated_file_is_named(saved_llama):
    _, directory = saved_llama()
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(InputError, match=r"model\.safetensors must be a whole safetensors file, but is truncated"):
        load_model(directory)


@pytest.mark.wheel
def test_smollm2_gives_the_logits_of_transformers(smollm2_directory: Path):
    tokenizer = load_tokenizer(smollm2_directory)
    text = (
        "<|im_start|>user\nWrite a function that adds 12 and 3.<|im_end|>\n<|im_start|>assistant\n"
        "def add(a, b):\n    return a + b"
    )
    tokens = np.array([tokenizer(text)["input_ids"]], np.int32)
    reference = LlamaForCausalLM.from_pretrained(smollm2_directory, dtype=torch.float32).eval()
    expected = torch_logits_of(reference, tokens)
    got = logits_of(load_model(smollm2_directory), tokens)
    # Both are float32 sums of values of up to 40: they are compared by the larger of 1 and the value.
    np.testing.assert_allclose(got, expected, atol=1e-4, rtol=1e-4)
    log_probs = [jax.nn.log_softmax(logits, axis=-1) for logits in (got, expected)]
    np.testing.assert_allclose(*log_probs, atol=1e-4, rtol=0)


@pytest.mark.wheel
def test_smollm2_knows_the_capital_of_france(smollm2_directory: Path):
    tokenizer = load_tokenizer(smollm2_directory)
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
    graphdef, params = nnx.split(load_model(smollm2_directory))
    next_token = jax.jit(
        lambda params, tokens, last: jnp.argmax(nnx.merge(graphdef, params)(tokens)[0, last]), donate_argnums=()
    )
    tokens = np.zeros((1, len(prompt) + 8), np.int32)
    tokens[0, : len(prompt)] = prompt
    for place in range(len(prompt), tokens.shape[1]):
        tokens[0, place] = next_token(params, tokens, place - 1)
    assert tokenizer.decode(tokens[0, len(prompt) :]).startswith("The capital of France is Paris.<|im_end|>")
    assert prod(tokens.shape) > 8
