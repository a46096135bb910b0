"""Shapes of published models by their hub ids, so that a run can be planned without a network."""

from __future__ import annotations

from typing import Any, NamedTuple

from atkd_jax.interop.families import family_of_json
from atkd_jax.models import DecoderConfig


class Published(NamedTuple):
    """What is known of a model without its files: as its config.json says it, and its tokenizer's number of ids."""

    raw: dict[str, Any]
    tokenizer_size: int

    @property
    def shape(self) -> DecoderConfig:
        """The decoder that it is."""
        return family_of_json(self.raw).read_config(self.raw)


def _llama(
    width: int, num_layers: int, num_heads: int, mlp_width: int, factor: float | None, *, tied: bool = False
) -> Published:
    """LLaMA 3, 3.1 or 3.2, which all have 8 heads with keys and the same tokenizer."""
    scaling = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    raw = {
        "model_type": "llama",
        "hidden_size": width,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": 8,
        "intermediate_size": mlp_width,
        "vocab_size": 128256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "max_position_embeddings": 8192 if factor is None else 131072,
        "tie_word_embeddings": tied,
    }
    return Published(raw if factor is None else raw | {"rope_scaling": scaling}, 128256)


def _qwen3(width: int, num_layers: int, num_heads: int, mlp_width: int, *, tied: bool) -> Published:
    raw = {
        "model_type": "qwen3",
        "hidden_size": width,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": mlp_width,
        "vocab_size": 151936,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "max_position_embeddings": 40960,
        "tie_word_embeddings": tied,
    }
    return Published(raw, 151669)


def _opt(width: int, num_layers: int, num_heads: int) -> Published:
    raw = {
        "model_type": "opt",
        "hidden_size": width,
        "word_embed_proj_dim": width,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "ffn_dim": 4 * width,
        "vocab_size": 50272,
        "max_position_embeddings": 2048,
        "do_layer_norm_before": True,
        "activation_function": "relu",
    }
    return Published(raw, 50265)


def _pythia(width: int, num_layers: int, num_heads: int, vocab_size: int) -> Published:
    raw = {
        "model_type": "gpt_neox",
        "hidden_size": width,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "intermediate_size": 4 * width,
        "vocab_size": vocab_size,
        "max_position_embeddings": 2048,
        "rotary_pct": 0.25,
        "rotary_emb_base": 10000,
        "layer_norm_eps": 1e-5,
        "use_parallel_residual": True,
        "hidden_act": "gelu",
        "tie_word_embeddings": False,
    }
    return Published(raw, 50277)


PUBLISHED: dict[str, Published] = {
    "meta-llama/Meta-Llama-3-8B": _llama(4096, 32, 32, 14336, None),
    "meta-llama/Meta-Llama-3-70B": _llama(8192, 80, 64, 28672, None),
    "meta-llama/Llama-3.1-8B": _llama(4096, 32, 32, 14336, 8.0),
    "meta-llama/Llama-3.1-70B": _llama(8192, 80, 64, 28672, 8.0),
    "meta-llama/Llama-3.2-1B": _llama(2048, 16, 32, 8192, 32.0, tied=True),
    "meta-llama/Llama-3.2-3B": _llama(3072, 28, 24, 8192, 32.0, tied=True),
    "Qwen/Qwen3-0.6B": _qwen3(1024, 28, 16, 3072, tied=True),
    "Qwen/Qwen3-1.7B": _qwen3(2048, 28, 16, 6144, tied=True),
    "Qwen/Qwen3-4B": _qwen3(2560, 36, 32, 9728, tied=True),
    "Qwen/Qwen3-8B": _qwen3(4096, 36, 32, 12288, tied=False),
    "Qwen/Qwen3-14B": _qwen3(5120, 40, 40, 17408, tied=False),
    "Qwen/Qwen3-32B": _qwen3(5120, 64, 64, 25600, tied=False),
    "facebook/opt-125m": _opt(768, 12, 12),
    "facebook/opt-1.3b": _opt(2048, 24, 32),
    "facebook/opt-2.7b": _opt(2560, 32, 32),
    "facebook/opt-6.7b": _opt(4096, 32, 32),
    "facebook/opt-13b": _opt(5120, 40, 40),
    "EleutherAI/pythia-160m": _pythia(768, 12, 12, 50304),
    "EleutherAI/pythia-410m": _pythia(1024, 24, 16, 50304),
    "EleutherAI/pythia-1b": _pythia(2048, 16, 8, 50304),
    "EleutherAI/pythia-1.4b": _pythia(2048, 24, 16, 50304),
    "EleutherAI/pythia-2.8b": _pythia(2560, 32, 32, 50304),
    "EleutherAI/pythia-6.9b": _pythia(4096, 32, 32, 50432),
    "EleutherAI/pythia-12b": _pythia(5120, 36, 40, 50688),
}
