import builtins
import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from atkd_jax.errors import InputError
from atkd_jax.interop import load_model, load_tokenizer, read_config
from atkd_jax.interop.gguf_conversion import convert_gguf
from atkd_jax.models import DecoderConfig

from .conftest import encoded, make_llama, paired, write_gguf

Q = gguf.GGMLQuantizationType


def shaped(tokenizer: PreTrainedTokenizerFast, **changes) -> LlamaForCausalLM:
    """Rows of 64 and 96, which blocks of 32 fill."""
    return make_llama(hidden_size=64, intermediate_size=96, head_dim=16, vocab_size=len(tokenizer), **changes)


@pytest.fixture
def model(tiny_tokenizer) -> LlamaForCausalLM:
    return shaped(tiny_tokenizer)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", [Q.F32, Q.F16, Q.BF16, Q.Q8_0, Q.Q4_1, Q.Q4_0, Q.Q5_0, Q.Q5_1])
def test_every_tensor_is_what_its_quantisation_left(tmp_path: Path, tiny_tokenizer, kind, tied: bool):
    model = shaped(tiny_tokenizer, tie_word_embeddings=tied)
    write_gguf(tmp_path / "model.gguf", model, tiny_tokenizer, kind=kind)
    convert_gguf(tmp_path / "model.gguf", tmp_path / "model", model_card="card")
    written = load_file(tmp_path / "model" / "model.safetensors")
    expected = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    assert written.keys() == expected.keys()
    for name, array in expected.items():
        # Rows are quantised one by one, so that their order within a tensor does not matter.
        left = gguf.dequantize(gguf.quantize(array, kind), kind) if array.ndim == 2 else array
        np.testing.assert_array_equal(written[name], left, err_msg=name)
        assert written[name].dtype == np.float32


@pytest.mark.parametrize("kind", [Q.Q2_K, Q.Q3_K, Q.Q4_K, Q.Q5_K, Q.Q6_K])
def test_k_quants_are_undone(tmp_path: Path, tiny_tokenizer, kind):
    sizes = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64, "num_hidden_layers": 1}
    model = make_llama(vocab_size=len(tiny_tokenizer), **sizes)
    write_gguf(tmp_path / "model.gguf", model, tiny_tokenizer, kind=kind)
    convert_gguf(tmp_path / "model.gguf", tmp_path / "model", model_card="card")
    written = load_file(tmp_path / "model" / "model.safetensors")
    for name, parameter in model.named_parameters():
        array = parameter.detach().numpy()
        if array.ndim == 2:
            left = gguf.dequantize(encoded(array, kind, name), kind)
            is_paired = ".q_proj." in name or ".k_proj." in name
            ours = paired(written[name], len(array) // 64) if is_paired else written[name]
            np.testing.assert_array_equal(ours, left, err_msg=name)
            assert np.ptp(left) > 0


def test_pytorch_gives_the_logits_of_the_model_that_was_written(tmp_path: Path, tiny_tokenizer, model):
    write_gguf(tmp_path / "model.gguf", model, tiny_tokenizer, kind=Q.F32)
    convert_gguf(tmp_path / "model.gguf", tmp_path / "model", model_card="card")
    tokens = torch.arange(30)[None]
    with torch.no_grad():
        expected = model(tokens).logits
        got = LlamaForCausalLM.from_pretrained(tmp_path / "model")(tokens).logits
    np.testing.assert_allclose(got.numpy(), expected.numpy(), atol=1e-5)
    ours = load_model(tmp_path / "model")(tokens.numpy().astype(np.int32))
    np.testing.assert_allclose(np.asarray(ours), expected.numpy(), atol=1e-4)


def test_the_config_and_the_ids(tmp_path: Path, tiny_tokenizer, model):
    write_gguf(tmp_path / "model.gguf", model, tiny_tokenizer)
    convert_gguf(tmp_path / "model.gguf", tmp_path / "model", model_card="card")
    assert read_config(tmp_path / "model") == DecoderConfig(
        vocab_size=len(tiny_tokenizer),
        width=64,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        mlp_width=96,
        norm_eps=1e-5,  # exactly, though the file holds it in float32
        rope_theta=5000.0,
        max_position=256,
        tie_embeddings=False,
    )
    for name in ("config.json", "generation_config.json"):
        raw = json.loads((tmp_path / "model" / name).read_text())
        assert raw["eos_token_id"] == tiny_tokenizer.eos_token_id
        assert raw["pad_token_id"] != raw["eos_token_id"]
    assert load_tokenizer(tmp_path / "model").chat_template == tiny_tokenizer.chat_template
    assert (tmp_path / "model" / "README.md").read_text() == "card"


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9])
def test_a_truncated_file_is_named_and_nothing_is_left(tmp_path: Path, tiny_tokenizer, model, share: float):
    file = tmp_path / "model.gguf"
    write_gguf(file, model, tiny_tokenizer)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match=r"model\.gguf must be a whole GGUF file, but is truncated or corrupt"):
        convert_gguf(file, tmp_path / "model", model_card="card")
    assert [each.name for each in tmp_path.iterdir()] == ["model.gguf"]


def test_without_the_gguf_package_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_tokenizer, model
):
    write_gguf(tmp_path / "model.gguf", model, tiny_tokenizer)
    real = builtins.__import__

    def refuse(name, *arguments, **settings):
        if name == "gguf":
            raise ImportError(name)
        return real(name, *arguments, **settings)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(
        InputError, match=r"the package gguf reads, but that is not installed; run `pip install atkd-ja"
    ):
        convert_gguf(tmp_path / "model.gguf", tmp_path / "model", model_card="card")


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        (
            lambda writer: writer.add_string("llama.rope.scaling.type", "yarn"),
            "must have unscaled rotary embeddings, or linear",
        ),
        (
            lambda writer: writer.add_tensor("blk.0.attn_q.bias", np.ones(64, np.float32)),
            r"must hold only tensors that the family llama computes with, but has blk\.0\.attn_q\.bias too",
        ),
    ],
)
def test_what_is_not_computed_is_refused(tmp_path: Path, tiny_tokenizer, model, metadata, words: str):
    write_gguf(tmp_path / "model.gguf", model, tiny_tokenizer, metadata=metadata)
    with pytest.raises(InputError, match=rf"model\.gguf {words}"):
        convert_gguf(tmp_path / "model.gguf", tmp_path / "model", model_card="card")


def test_another_architecture_is_refused_with_those_known(tmp_path: Path):
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match=r"model\.gguf must have an architecture among llama, .*, but has 'mamba'"):
        convert_gguf(tmp_path / "model.gguf", tmp_path / "model", model_card="card")


def test_a_missing_tensor_and_a_wrong_shape_are_named(tmp_path: Path, tiny_tokenizer):
    deep = shaped(tiny_tokenizer)
    deep.config.num_hidden_layers = 4
    write_gguf(tmp_path / "model.gguf", deep, tiny_tokenizer)
    with pytest.raises(InputError, match=r"must hold the tensor blk\.3\.attn_norm\.weight, but does not"):
        convert_gguf(tmp_path / "model.gguf", tmp_path / "model", model_card="card")
    wide = shaped(tiny_tokenizer)
    wide.config.intermediate_size = 128
    write_gguf(tmp_path / "model.gguf", wide, tiny_tokenizer)
    with pytest.raises(
        InputError, match=r"must hold blk\.0\.ffn_gate\.weight as \[128, 64\], .* holds it as \[96, 64\]"
    ):
        convert_gguf(tmp_path / "model.gguf", tmp_path / "model", model_card="card")
