import errno
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaForCausalLM

from atkd_jax.errors import InputError
from atkd_jax.interop.exporting import export_model
from atkd_jax.interop.loading import load_model, read_config
from atkd_jax.models import Decoder, DecoderConfig, Llama3RopeScaling

CONFIG = {
    "vocab_size": 320,
    "width": 24,
    "num_layers": 3,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "mlp_width": 40,
    "rope_theta": 5000.0,
    "max_position": 256,
}


def make_model(seed: int = 0, param_dtype=jnp.float32, **changes) -> Decoder:
    """A random model whose every number matters: norm scales that are no ones, kernels that are not tiny."""
    config = DecoderConfig(**(CONFIG | changes))
    model = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0), param_dtype=param_dtype))
    graphdef, params = nnx.split(model)
    random = np.random.default_rng(seed)
    return nnx.merge(
        graphdef,
        jax.tree.map(lambda leaf: jnp.asarray((random.normal(size=leaf.shape) * 0.3).astype(leaf.dtype)), params),
    )


@pytest.fixture
def export(tmp_path: Path, tiny_tokenizer):
    def run(model: Decoder, *, dtype="float32", max_shard_bytes=5_000_000_000, name="student", generation_config=None):
        export_model(
            model,
            tmp_path / name,
            tokenizer=tiny_tokenizer,
            dtype=dtype,
            max_shard_bytes=max_shard_bytes,
            model_card="# A card\n",
            generation_config=generation_config or {},
        )
        return tmp_path / name

    return run


def equal_params(left: Decoder, right: Decoder) -> bool:
    pairs = jax.tree.map(lambda a, b: (np.asarray(a), np.asarray(b)), nnx.state(left), nnx.state(right))
    flat = jax.tree.leaves(pairs, is_leaf=lambda each: isinstance(each, tuple))
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in flat)


VARIANTS = [
    ({}, 5_000_000_000),
    ({"tie_embeddings": True}, 5_000_000_000),
    ({}, 20_000),
    ({"tie_embeddings": True, "num_layers": 1}, 20_000),
    ({"rope_scaling": Llama3RopeScaling(4.0, 1.0, 4.0, 64)}, 5_000_000_000),
]


@pytest.mark.parametrize(("changes", "max_shard_bytes"), VARIANTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_was_exported_comes_back_bit_for_bit(export, changes: dict, max_shard_bytes: int, dtype: str):
    model = make_model(param_dtype=jnp.dtype(dtype), **changes)
    directory = export(model, dtype=dtype, max_shard_bytes=max_shard_bytes)
    back = load_model(directory, param_dtype=jnp.dtype(dtype))
    assert back.config == model.config
    assert equal_params(back, model)


@pytest.mark.parametrize(("changes", "max_shard_bytes"), VARIANTS)
def test_transformers_loads_it_and_gives_our_logits(export, changes: dict, max_shard_bytes: int):
    model = make_model(**changes)
    directory = export(model, max_shard_bytes=max_shard_bytes)
    reference, info = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    assert type(reference) is LlamaForCausalLM
    assert reference.dtype == torch.float32
    assert not any(info.values())
    tokens = np.random.default_rng(0).integers(320, size=(2, 30)).astype(np.int32)
    with torch.no_grad():
        expected = reference(torch.from_numpy(tokens.astype(np.int64))).logits.numpy()
    np.testing.assert_allclose(np.asarray(model(tokens)), expected, atol=1e-4, rtol=0)


def test_transformers_generates_the_same_greedy_tokens(export):
    model = make_model()
    directory = export(model)
    prompt = np.random.default_rng(1).integers(3, 320, size=(1, 5)).astype(np.int32)
    reference = LlamaForCausalLM.from_pretrained(directory)
    expected = reference.generate(
        torch.from_numpy(prompt.astype(np.int64)), max_new_tokens=64, do_sample=False, eos_token_id=None
    )[0]
    tokens = np.zeros((1, 69), np.int32)
    tokens[0, :5] = prompt
    graphdef, params = nnx.split(model)
    logits = jax.jit(lambda params, tokens: nnx.merge(graphdef, params)(tokens))
    for place in range(5, 69):
        tokens[0, place] = np.argmax(logits(params, tokens)[0, place - 1])
    assert tokens[0].tolist() == expected.tolist()


def test_files_and_their_contents(export, tiny_tokenizer):
    directory = export(make_model(), generation_config={"temperature": 0.7, "do_sample": True})
    assert {each.name for each in directory.iterdir()} == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert (directory / "README.md").read_text() == "# A card\n"
    raw = json.loads((directory / "config.json").read_text())
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    assert raw["architectures"] == ["LlamaForCausalLM"]
    assert raw["torch_dtype"] == raw["dtype"] == "float32"
    assert ids.items() <= raw.items()
    generation = GenerationConfig.from_pretrained(directory)
    assert (generation.temperature, generation.eos_token_id, generation.pad_token_id) == (0.7, 1, 2)
    text = "def add(a, b): return 12 <think><|e|>"
    assert AutoTokenizer.from_pretrained(directory)(text)["input_ids"] == tiny_tokenizer(text)["input_ids"]


def test_tensors_stand_in_the_order_of_the_layers(export):
    directory = export(make_model(), max_shard_bytes=20_000)
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    names = list(index["weight_map"])
    assert names[0] == "model.embed_tokens.weight"
    assert names[-2:] == ["model.norm.weight", "lm_head.weight"]
    layers = [int(name.split(".")[2]) for name in names if name.startswith("model.layers.")]
    assert layers == sorted(layers)
    assert len(layers) == 27
    assert len(set(index["weight_map"].values())) > 3


def test_export_in_bfloat16_rounds_to_nearest(export):
    model = make_model()
    stored = load_file(export(model, dtype=jnp.bfloat16) / "model.safetensors")["model.embed_tokens.weight"]
    expected = torch.from_numpy(np.array(model.embedding.get_value())).bfloat16().float().numpy()
    np.testing.assert_array_equal(stored.astype(np.float32), expected)


def test_sharded_parameters_are_gathered(export):
    model = make_model()
    mesh = jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))

    def spread(leaf: jax.Array) -> jax.Array:
        axis = next((axis for axis, size in enumerate(leaf.shape) if size % 4 == 0), None)
        spec = [None if each != axis else "x" for each in range(leaf.ndim)]
        return jax.device_put(leaf, jax.sharding.NamedSharding(mesh, jax.P(*spec)))

    whole = load_file(export(model, name="whole") / "model.safetensors")
    nnx.update(model, jax.tree.map(spread, nnx.state(model)))
    spread_out = load_file(export(model, name="spread") / "model.safetensors")
    assert whole.keys() == spread_out.keys()
    for name, tensor in whole.items():
        np.testing.assert_array_equal(spread_out[name], tensor)


def test_a_second_export_takes_the_place_of_the_first(export):
    export(make_model(seed=0))
    model = make_model(seed=1, num_layers=2)
    directory = export(model)
    assert equal_params(load_model(directory), model)
    assert read_config(directory).num_layers == 2
    assert [each.name for each in directory.parent.iterdir()] == ["student"]


@pytest.mark.parametrize("had_one", [False, True])
def test_a_full_disk_leaves_what_was_there(export, monkeypatch: pytest.MonkeyPatch, had_one: bool):
    model = make_model()
    parent = (export(model) if had_one else export(model, name="other")).parent
    before = {file: file.read_bytes() for file in parent.rglob("*") if file.is_file()}

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("atkd_jax.interop.exporting.save_tokenizer", full)
    with pytest.raises(InputError, match="student cannot be written, because the disk is full; nothing was left"):
        export(make_model(seed=1))
    assert {file: file.read_bytes() for file in parent.rglob("*") if file.is_file()} == before


def test_a_tokenizer_larger_than_the_model_is_refused(export):
    with pytest.raises(InputError, match=r"must not have more tokens than .* against 64; export with"):
        export(make_model(vocab_size=64))
