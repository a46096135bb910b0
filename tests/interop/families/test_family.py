import pytest

from atkd_jax.errors import InputError
from atkd_jax.interop.families.family import ConfigKey, Weight
from atkd_jax.interop.families.layouts import PLAIN
from atkd_jax.models import DecoderConfig

CONFIG = DecoderConfig(vocab_size=8, width=4, num_layers=3, num_heads=1, num_kv_heads=1, head_dim=4, mlp_width=4)


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


def test_names_run_over_the_layers():
    weight = Weight("layers.norm.scale", "model.layers.{layer}.norm.weight", lambda c: (c.width,), PLAIN)
    assert weight.is_stacked
    assert weight.names(CONFIG) == [f"model.layers.{layer}.norm.weight" for layer in range(3)]
    weight = Weight("final_norm.scale", "model.norm.weight", lambda c: (c.width,), PLAIN)
    assert not weight.is_stacked
    assert weight.names(CONFIG) == ["model.norm.weight"]
