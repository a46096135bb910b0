import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from safetensors.numpy import load_file, save_file

from atkd_jax.commands import verify_export as module
from atkd_jax.commands.verify_export import require_torch, verify_adapter, verify_export
from atkd_jax.errors import InputError
from atkd_jax.interop import export_adapter, load_model, load_tokenizer
from atkd_jax.models import add_adapters


def test_an_export_is_what_transformers_makes_of_it(tiny_teacher_directory):
    found = verify_export(tiny_teacher_directory)
    assert found.logit_difference < 1e-4
    assert abs(found.forward_kl) < 1e-6
    assert (found.same_tokens, found.greedy_tokens) == (64, 64)
    assert f"on {found.tokens} tokens logits differ by at most" in found.sentence()
    assert "64 of 64 greedy tokens are the same" in found.sentence()


def test_a_difference_is_found(tiny_teacher_directory, tmp_path, monkeypatch):
    """What is read here and what transformers reads are two models."""
    for path in tiny_teacher_directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.norm.weight"] = 1.001 * tensors["model.norm.weight"]
    other = load_model(tmp_path)
    save_file(tensors, tmp_path / "model.safetensors")
    monkeypatch.setattr(module, "load_model", lambda _: other)
    with pytest.raises(InputError, match=r"must give transformers' logits within 0\.0001 .* but they differ by"):
        verify_export(tmp_path)


def test_a_shorter_model_writes_less(tiny_teacher_directory, tmp_path):
    for path in tiny_teacher_directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | {"max_position_embeddings": 20}))
    assert verify_export(tmp_path).greedy_tokens == 19


def test_without_torch_it_is_said(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="but torch is not installed; install it, or leave --verify out"):
        require_torch()


@pytest.mark.filterwarnings("ignore")  # peft's and torch's own
def test_an_adapter_is_what_peft_makes_of_it(tiny_teacher_directory, tmp_path):
    pytest.importorskip("peft")
    model, tokenizer = load_model(tiny_teacher_directory), load_tokenizer(tiny_teacher_directory)
    add_adapters(model, rank=2, alpha=4.0, targets=["query", "up"], rngs=nnx.Rngs(0))
    moved = jax.tree.map(lambda leaf: leaf + 0.1, nnx.state(model, nnx.LoRAParam))
    nnx.update(model, moved)
    base = str(tiny_teacher_directory)
    export_adapter(model, tmp_path / "adapter", base=base, tokenizer=tokenizer, model_card="")
    found = verify_adapter(model, tmp_path / "adapter", tokenizer=tokenizer)
    assert (found.same_tokens, found.greedy_tokens) == (64, 64)
    plain = load_model(tiny_teacher_directory)(jnp.arange(9)[None])
    assert np.abs(np.asarray(plain - model(jnp.arange(9)[None]))).max() > 1e-2
    assert torch.get_default_dtype() == torch.float32
