"""transformers' PyTorch LLaMA with random weights, and the decoder that holds the same ones."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from transformers import LlamaConfig, LlamaForCausalLM

from atkd_jax.interop.families.rotary import write_scaling
from atkd_jax.models import Decoder, DecoderConfig
from atkd_jax.models.layer_kinds import layer_kinds

GROUPED = DecoderConfig(
    vocab_size=101, width=32, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=8, mlp_width=48, max_position=256
)


class Pair(NamedTuple):
    """One model, twice."""

    config: DecoderConfig
    oracle: LlamaForCausalLM
    decoder: Decoder


def make_pair(config: DecoderConfig = GROUPED) -> Pair:
    oracle = torch_llama(config)
    weights = {name: parameter.detach() for name, parameter in oracle.named_parameters()}
    decoder = Decoder(config, rngs=nnx.Rngs(0))
    params = nnx.state(decoder)
    nnx.replace_by_pure_dict(params, _as_jax(as_tree(config, weights.__getitem__)))
    nnx.update(decoder, params)
    return Pair(config, oracle, decoder)


def torch_llama(config: DecoderConfig) -> LlamaForCausalLM:
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.rope_scaling is not None:
        rope |= write_scaling(config.rope_scaling) or {}
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            intermediate_size=config.mlp_width,
            rms_norm_eps=config.norm_eps,
            max_position_embeddings=config.max_position,
            tie_word_embeddings=config.tie_embeddings,
            rope_parameters=rope,
            initializer_range=0.15,
            attn_implementation="eager",
        )
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def angles_of(config: DecoderConfig, positions: jax.Array, layer: int = 0) -> tuple[jax.Array, jax.Array]:
    """The cosines and sines by which one layer turns."""
    kinds = layer_kinds(config)
    cosines, sines = kinds.angles(positions)
    return cosines[kinds.each[layer].rotation], sines[kinds.each[layer].rotation]


def as_tree(config: DecoderConfig, tensor_of: Callable[[str], torch.Tensor]) -> dict[str, Any]:
    """PyTorch's weights, or their gradients, under the decoder's names and in its shapes."""

    def stacked(name: str, *shape: int) -> np.ndarray:
        layers = [tensor_of(f"model.layers.{i}.{name}.weight").numpy() for i in range(config.num_layers)]
        return np.stack([layer.T.reshape(shape) if shape else layer for layer in layers])

    width, mlp_width = config.width, config.mlp_width
    heads, kv_heads = (config.num_heads, config.head_dim), (config.num_kv_heads, config.head_dim)
    tree: dict[str, Any] = {
        "embedding": tensor_of("model.embed_tokens.weight").numpy(),
        "layers": {
            "attention_norm": {"scale": stacked("input_layernorm")},
            "attention": {
                "query": {"kernel": stacked("self_attn.q_proj", width, *heads)},
                "key": {"kernel": stacked("self_attn.k_proj", width, *kv_heads)},
                "value": {"kernel": stacked("self_attn.v_proj", width, *kv_heads)},
                "output": {"kernel": stacked("self_attn.o_proj", *heads, width)},
            },
            "mlp_norm": {"scale": stacked("post_attention_layernorm")},
            "mlp": {
                "gate": {"kernel": stacked("mlp.gate_proj", width, mlp_width)},
                "up": {"kernel": stacked("mlp.up_proj", width, mlp_width)},
                "down": {"kernel": stacked("mlp.down_proj", mlp_width, width)},
            },
        },
        "final_norm": {"scale": tensor_of("model.norm.weight").numpy()},
    }
    if not config.tie_embeddings:
        tree["head"] = tensor_of("lm_head.weight").numpy().T
    return tree


def _as_jax(tree: Any) -> Any:
    return {key: _as_jax(value) for key, value in tree.items()} if isinstance(tree, dict) else jnp.asarray(tree)
