import dataclasses

from atkd_jax.interop.families.layouts import PLAIN
from atkd_jax.interop.families.rows import (
    QKV,
    SANDWICH_NORMS,
    decoder_rows,
    expert_rows,
    fused,
    joined_biases,
    joined_columns,
    linear,
    norm,
)
from atkd_jax.models import DecoderConfig

CONFIG = DecoderConfig(vocab_size=8, width=8, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=6, mlp_width=5)


def names_of(rows) -> dict[str, tuple[str, ...]]:
    return {row.name: row.shape for row in rows}


def test_a_linear_has_a_bias_where_it_is_asked_for():
    assert names_of(linear("path", "name", "mlp", "width")) == {"name.weight": ("mlp", "width")}
    rows = linear("path", "name", "mlp", "width", bias=True, layout=PLAIN)
    assert names_of(rows) == {"name.weight": ("width", "mlp"), "name.bias": ("mlp",)}
    assert [row.paths for row in rows] == [("path.kernel",), ("path.bias",)]


def test_a_norm_has_a_factor_and_perhaps_a_bias():
    assert [row.paths for row in norm("path", "name")] == [("path.scale",)]
    assert names_of(norm("path", "name", bias=True)) == {"name.weight": ("width",), "name.bias": ("width",)}


def test_fused_rows_hold_several_parameters():
    rows = fused(QKV, "name", "qkv", "width", bias=True, kernels=joined_columns, biases=joined_biases)
    assert names_of(rows) == {"name.weight": ("width", "qkv"), "name.bias": ("qkv",)}
    assert rows[0].paths == tuple(f"layers.attention.{name}.kernel" for name in ("query", "key", "value"))


def test_every_switch_adds_its_rows():
    plain = {row.name for row in decoder_rows(CONFIG)}
    added = {
        "qk_norm": ("head", {"self_attn.q_norm.weight", "self_attn.k_norm.weight"}),
        "qkv_bias": (True, {f"self_attn.{name}_proj.bias" for name in "qkv"}),
        "output_bias": (True, {"self_attn.o_proj.bias"}),
        "mlp_bias": (True, {f"mlp.{name}_proj.bias" for name in ("gate", "up", "down")}),
    }
    for switch, (value, names) in added.items():
        rows = decoder_rows(dataclasses.replace(CONFIG, **{switch: value}))
        assert {row.name for row in rows} - plain == {"model.layers.{layer}." + name for name in names}
    tied = {row.name for row in decoder_rows(dataclasses.replace(CONFIG, tie_embeddings=True))}
    assert plain - tied == {"lm_head.weight"}
    sandwich = {row.name for row in decoder_rows(CONFIG, norms=SANDWICH_NORMS)}
    assert len(sandwich - plain) == 2


def test_norms_of_queries_are_as_wide_as_what_they_normalise():
    for kind, widths in (("head", [(6,), (6,)]), ("all_heads", [(12,), (6,)])):
        config = dataclasses.replace(CONFIG, qk_norm=kind)
        rows = [row for row in decoder_rows(config) if "_norm.weight" in row.name and "self_attn" in row.name]
        assert [row.shape_in(config) for row in rows] == widths


def test_each_expert_has_tensors_of_its_own():
    config = dataclasses.replace(CONFIG, num_experts=3, experts_per_token=2)
    rows = expert_rows(router="gate", expert="experts.{expert}.", gate="w1", up="w3", down="w2")
    places = [(place, name) for place, name in rows[1].places(config)]
    assert len(places) == 2 * 3
    assert places[-1] == ((1, 2), "model.layers.1.experts.2.w1.weight")
    assert [row.shape_in(config) for row in rows] == [(3, 8), (5, 8), (5, 8), (8, 5)]
