"""What every family must hold, against transformers' PyTorch model of it; a test file per family lists its models."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from flax import nnx

from atkd_jax.generation import generate
from atkd_jax.interop import export_model, load_model, read_config
from atkd_jax.interop.families import Family, family_of_config
from atkd_jax.models import Decoder

VOCAB_SIZE = 97
TOKENS = np.random.default_rng(0).integers(0, VOCAB_SIZE, (2, 24)).astype(np.int32)
SHAPE = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "initializer_range": 0.15,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
# What families of LLaMA's kind have in common, each switch the other way.
OTHERWISE = {
    "num_key_value_heads": 4,
    "hidden_act": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "rope_parameters": {
        "rope_type": "yarn",
        "factor": 4.0,
        "rope_theta": 50_000.0,
        "original_max_position_embeddings": 16,
    },
}


@dataclass(frozen=True)
class Case:
    """One small model: the config class of transformers, and what differs from its defaults."""

    config: str
    settings: dict[str, Any] = field(hash=False)

    def model(self) -> torch.nn.Module:
        """The model with random weights, none of which is zero or the one that it starts as."""
        config = getattr(transformers, self.config)(**self.settings)
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.2 * torch.randn_like(parameter))
                elif "experts" in name or name.endswith("mlp.gate.weight"):
                    parameter.normal_(0, 0.3)
            # Where the head is the embedding, the last token would be the likeliest next one for ever.
            if last := [p for name, p in model.named_parameters() if name.endswith(("norm.weight", "ln_f.weight"))]:
                last[-1].copy_(-2 - last[-1] if self.config.startswith("Gemma") else -last[-1])
        return model.eval()


def torch_logits(model: torch.nn.Module) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(TOKENS).long()).logits.numpy()


def logits_of(model: Decoder) -> np.ndarray:
    graphdef, params = nnx.split(model)
    return np.asarray(jax.jit(lambda params: nnx.merge(graphdef, params)(TOKENS))(params))


def same_params(first: Decoder, second: Decoder) -> bool:
    trees = [nnx.to_pure_dict(nnx.state(model)) for model in (first, second)]
    return jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), *trees))


class FamilyChecks:
    """Tests that a family's class inherits: `family` is its table, `cases` its models, `fullest` one of them.

    `opened`, in the families' conftest, gives for a case transformers' model, its directory, and ours out of it.
    """

    family: ClassVar[Family]
    cases: ClassVar[dict[str, Case]]
    fullest: ClassVar[str]

    def test_logits_are_those_of_transformers(self, opened, case_name):
        oracle, directory, model = opened(case_name)
        expected = torch_logits(oracle)
        assert read_config(directory).family == self.family.name
        assert np.ptp(expected) > 2  # An oracle that says nothing would agree with everything.
        np.testing.assert_allclose(logits_of(model), expected, atol=1e-4, rtol=0)

    def test_what_is_exported_is_what_was_loaded(self, opened, case_name, tmp_path, tiny_tokenizer_97):
        oracle, _, model = opened(case_name)
        export_model(
            model,
            tmp_path / "model",
            tokenizer=tiny_tokenizer_97,
            dtype=jnp.float32,
            max_shard_bytes=20_000,
            model_card="",
            generation_config={},
        )
        again = load_model(tmp_path / "model")
        assert again.config == model.config
        assert same_params(again, model)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", attn_implementation="eager")
        assert type(theirs) is type(oracle)
        np.testing.assert_allclose(torch_logits(theirs), torch_logits(oracle), atol=1e-6, rtol=0)

    def test_transformers_writes_the_config_that_we_wrote(self, opened, case_name, tmp_path):
        config = opened(case_name)[2].config
        assert family_of_config(config) is self.family
        (tmp_path / "config.json").write_text(json.dumps(self.family.write_config(config)))
        transformers.AutoConfig.from_pretrained(tmp_path).save_pretrained(tmp_path)
        assert read_config(tmp_path) == config

    def test_gradients_are_those_of_transformers(self, opened, tmp_path):
        model = opened(self.fullest)[2]
        oracle = self.cases[self.fullest].model()
        log_probs = torch.log_softmax(oracle(torch.tensor(TOKENS).long()).logits[:, :-1], dim=-1)
        log_probs.gather(-1, torch.tensor(TOKENS[:, 1:, None]).long()).mean().backward()
        with torch.no_grad():
            for parameter in oracle.parameters():
                parameter.copy_(parameter.grad)
        # Saved in the weights' places, the gradients are read by the same table.
        oracle.save_pretrained(tmp_path)
        expected = nnx.to_pure_dict(nnx.state(load_model(tmp_path)))
        graphdef, params = nnx.split(model)

        def loss(params):
            log_probs = jax.nn.log_softmax(nnx.merge(graphdef, params)(TOKENS)[:, :-1])
            return jnp.mean(jnp.take_along_axis(log_probs, TOKENS[:, 1:, None], axis=-1))

        actual = nnx.to_pure_dict(jax.jit(jax.grad(loss))(params))
        assert jax.tree.structure(actual) == jax.tree.structure(expected)
        paths = jax.tree_util.tree_leaves_with_path(expected)
        for (path, of_torch), of_jax in zip(paths, jax.tree.leaves(actual), strict=True):
            np.testing.assert_allclose(of_jax, of_torch, atol=1e-4, rtol=1e-4, err_msg=str(path))

    def test_greedy_text_is_that_of_transformers(self, opened):
        """64 tokens after prompts of unequal length in one batch, well beyond the windows of layers that have them."""
        oracle, _, model = opened(self.fullest)
        prompts = [TOKENS[0, :9].tolist(), TOKENS[1, :4].tolist()]
        answers = generate(*nnx.split(model), prompts, max_new_tokens=64, eos_ids=(), pad_id=0)
        assert len({token for answer in answers for token in answer}) > 4  # One word again and again would say little.
        for prompt, answer in zip(prompts, answers, strict=True):
            tokens = torch.tensor([prompt])
            mask = torch.ones_like(tokens)
            settings = {"max_new_tokens": 64, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
            written = oracle.generate(tokens, attention_mask=mask, **settings)
            assert answer == written[0, len(prompt) :].tolist()
