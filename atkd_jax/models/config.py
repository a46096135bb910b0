"""The shape and the switches of a decoder: all that a checkpoint's config says and the arithmetic needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from atkd_jax.errors import InputError
from atkd_jax.models.mlp import ACTIVATIONS
from atkd_jax.models.norms import NORM_KINDS, NormKind
from atkd_jax.models.rope_scaling import LongRopeScaling, RopeScaling

NormPlacement = Literal["pre", "post", "branch", "sandwich"]
Positions = Literal["rotary", "learned"]
QKNorm = Literal["none", "head", "all_heads"]


@dataclass(frozen=True)
class DecoderConfig:
    """A decoder-only transformer. Two models with equal configs have parameters of equal names and shapes.

    With rotary positions, `max_position` is what the model was trained for; it is carried to the exported config and
    limits nothing here. With learned positions it is how many there are.

    Attributes:
        family: the name of the table in `atkd_jax.interop` that writes the model down for others.
        embed_width: of the embedding and the head, where matrices lead from there to `width` and back.
        scale_embeddings: whether the embedding is multiplied by the square root of `width`.
        norm: "rms_centred" keeps what a factor exceeds 1 by; "layer" has biases too.
        norm_placement: x + f(norm(x)) is "pre", norm(x + f(x)) "post", x + norm(f(x)) "branch" and
            x + norm(f(norm(x))) "sandwich".
        parallel_residual: attention and MLP read the same x and are added to it together; with "pre" alone.
        final_norm: whether there is a norm before the head.
        position_offset: the row of the learned positions at which position 0 stands.
        rotary_dim: how many elements of a head are turned, from the first; all of them if not given.
        rotary_layers: per layer, whether it turns at all; all do if empty.
        local_rope_theta: the base of the windowed layers, without `rope_scaling`, where it is another one.
        qk_norm: queries and keys are normalised by "head", or over "all_heads" together, before they are turned.
        query_scalar: scores are divided by its square root; `head_dim` if not given.
        attention_softcap: scores s become c tanh(s / c).
        window: how many tokens a token sees, itself included.
        windowed_layers: per layer, whether `window` holds there; in all of them if empty.
        activation: a key of `models.mlp.ACTIVATIONS`.
        num_experts: 0 for one MLP per layer; else `mlp_width` is each expert's.
        normalize_expert_weights: whether the weights of a token's experts sum to 1.
        logit_softcap: logits z become c tanh(z / c).

    Raises:
        InputError: where the numbers do not fit together.
    """

    vocab_size: int
    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_width: int
    norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    max_position: int = 2048
    tie_embeddings: bool = False
    activation: str = "silu"
    family: str = "llama"
    embed_width: int | None = None
    scale_embeddings: bool = False
    norm: NormKind = "rms"
    norm_placement: NormPlacement = "pre"
    parallel_residual: bool = False
    final_norm: bool = True
    positions: Positions = "rotary"
    position_offset: int = 0
    rotary_dim: int | None = None
    rotary_layers: tuple[bool, ...] = ()
    local_rope_theta: float | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: QKNorm = "none"
    query_scalar: int | None = None
    attention_softcap: float | None = None
    window: int | None = None
    windowed_layers: tuple[bool, ...] = ()
    gated_mlp: bool = True
    mlp_bias: bool = False
    num_experts: int = 0
    experts_per_token: int = 0
    normalize_expert_weights: bool = True
    logit_softcap: float | None = None

    def __post_init__(self):
        _check_numbers(self)
        _check_choices(self)
        _check_combinations(self)

    @property
    def head_width(self) -> int:
        """The width of the states that the head turns into logits, and of the embedding."""
        return self.embed_width or self.width


def _check_numbers(config: DecoderConfig) -> None:
    needed = ("vocab_size", "width", "num_layers", "num_heads", "num_kv_heads", "head_dim", "mlp_width", "max_position")
    optional = ("embed_width", "rotary_dim", "query_scalar", "window")
    counts = {"position_offset": 0, "num_experts": 0, "experts_per_token": 0, **dict.fromkeys((*needed, *optional), 1)}
    for name, least in counts.items():
        value = getattr(config, name)
        if value is None and name in optional:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"model config: {name} must be a whole number from {least} on, got {value!r}; correct it.")
    for name in ("norm_eps", "rope_theta", "local_rope_theta", "attention_softcap", "logit_softcap"):
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise InputError(f"model config: {name} must be above 0, got {value}; correct it.")


def _check_choices(config: DecoderConfig) -> None:
    choices = {
        "activation": sorted(ACTIVATIONS),
        "norm": NORM_KINDS,
        "norm_placement": get_args(NormPlacement),
        "positions": get_args(Positions),
        "qk_norm": get_args(QKNorm),
    }
    for name, allowed in choices.items():
        if getattr(config, name) not in allowed:
            raise InputError(
                f"model config: {name} must be one of {', '.join(allowed)}, got {getattr(config, name)!r}; "
                "choose one of them."
            )


def _check_combinations(config: DecoderConfig) -> None:
    if config.num_heads % config.num_kv_heads:
        raise InputError(
            f"model config: num_heads must be a multiple of num_kv_heads, got {config.num_heads} and "
            f"{config.num_kv_heads}; choose a divisor of {config.num_heads}."
        )
    turned = config.rotary_dim or config.head_dim
    if config.positions == "rotary" and (turned % 2 or turned > config.head_dim):
        raise InputError(
            "model config: head_dim, or rotary_dim where it is given, must be even, because rotary embedding turns "
            f"pairs, and within the head, got {turned} of {config.head_dim}; choose an even one."
        )
    if isinstance(config.rope_scaling, LongRopeScaling) and len(config.rope_scaling.short_factors) != turned // 2:
        raise InputError(
            f"model config: rope_scaling must have a factor for each of the {turned // 2} pairs that are turned, got "
            f"{len(config.rope_scaling.short_factors)}; correct it."
        )
    for name in ("rotary_layers", "windowed_layers"):
        if len(getattr(config, name)) not in (0, config.num_layers):
            raise InputError(
                f"model config: {name} must have a value for each of the {config.num_layers} layers or be empty, got "
                f"{len(getattr(config, name))}; correct it."
            )
    if any(config.windowed_layers) and config.window is None:
        raise InputError("model config: windowed_layers must come with a window, got none; give its length.")
    if config.parallel_residual and config.norm_placement != "pre":
        raise InputError(
            "model config: parallel_residual must come with norm_placement pre, got "
            f"{config.norm_placement}; choose one of the two."
        )
    if bool(config.num_experts) != bool(config.experts_per_token) or config.experts_per_token > config.num_experts:
        raise InputError(
            "model config: experts_per_token must be between 1 and num_experts, or both 0, got "
            f"{config.experts_per_token} and {config.num_experts}; correct them."
        )
    if config.num_experts and (config.mlp_bias or not config.gated_mlp):
        raise InputError("model config: experts must be gated and without biases, got others; correct the switches.")
