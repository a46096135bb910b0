import pytest

from atkd_jax.errors import InputError
from atkd_jax.interop.families import FAMILIES
from atkd_jax.interop.families.family import ConfigKey, Weight, dimension
from atkd_jax.interop.families.layouts import PLAIN
from atkd_jax.models import DecoderConfig

CONFIG = DecoderConfig(
    vocab_size=8,
    width=4,
    num_layers=3,
    num_heads=2,
    num_kv_heads=1,
    head_dim=6,
    mlp_width=5,
    embed_width=3,
    position_offset=2,
    max_position=10,
    num_experts=2,
    experts_per_token=1,
)


def test_a_key_reads_its_value_or_its_default():
    assert ConfigKey("hidden_size", "width").read({"hidden_size": 7}) == 7
    assert ConfigKey("eps", "norm_eps", 0.5).read({}) == 0.5
    assert ConfigKey("eps", "norm_eps", 0.5).read({"eps": None}) == 0.5
    assert ConfigKey("kv", "num_kv_heads", lambda raw: raw["heads"]).read({"heads": 4}) == 4


def test_a_whole_number_does_for_a_float_and_nothing_else_for_anything():
    value = ConfigKey("rope_theta", "rope_theta").read({"rope_theta": 10_000})
    assert (value, type(value)) == (10_000.0, float)
    for field, wrong in (("width", 4.0), ("width", True), ("norm_eps", "1"), ("tie_embeddings", 1), ("activation", 0)):
        with pytest.raises(InputError, match="must have a value of type"):
            ConfigKey("key", field).read({"key": wrong})


def test_a_key_that_must_be_there_is_named():
    with pytest.raises(InputError, match="must have the key hidden_size, but does not"):
        ConfigKey("hidden_size", "width").read({})


def test_null_is_none_where_a_field_may_be_none():
    key = ConfigKey("sliding_window", "window", 4096)
    assert key.read({"sliding_window": None}) is None
    assert key.read({}) == 4096
    assert ConfigKey("query_pre_attn_scalar", "query_scalar").read({"query_pre_attn_scalar": 144.0}) == 144


def test_places_run_over_layers_and_experts():
    weight = Weight(("layers.norm.scale",), "model.layers.{layer}.norm.weight", ("width",), PLAIN)
    assert weight.is_stacked
    assert list(weight.places(CONFIG)) == [((layer,), f"model.layers.{layer}.norm.weight") for layer in range(3)]
    weight = Weight(("layers.mlp",), "{layer}.{expert}", ("mlp", "width"), PLAIN)
    assert list(weight.places(CONFIG))[2:4] == [((1, 0), "1.0"), ((1, 1), "1.1")]
    weight = Weight(("final_norm.scale",), "model.norm.weight", ("width",), PLAIN)
    assert not weight.is_stacked
    assert list(weight.places(CONFIG)) == [((), "model.norm.weight")]
    assert weight.shape_in(CONFIG) == (4,)


def test_dimensions():
    names = (
        "vocab",
        "embed",
        "positions",
        "width",
        "heads",
        "kv_heads",
        "qkv",
        "head_dim",
        "mlp",
        "gate_up",
        "experts",
    )
    assert [dimension(CONFIG, name) for name in names] == [8, 3, 12, 4, 12, 6, 24, 6, 5, 10, 2]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_what_a_family_does_not_compute_is_refused(family):
    for key, value in family.fixed.items():
        other = 7 if isinstance(value, int) and not isinstance(value, bool) else not value or [1]
        with pytest.raises(InputError, match=rf"must have {key}=.*, the only value computed here for the family"):
            family.read_config({key: other if other != value else [1]})
