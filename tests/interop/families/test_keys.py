import pytest

from atkd_jax.errors import InputError
from atkd_jax.interop.families.keys import ATTENTION_BIAS, activation_fields, decoder_keys, implied_head_dim
from atkd_jax.models import DecoderConfig

CONFIG = DecoderConfig(
    vocab_size=8, width=8, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=4, mlp_width=4, activation="gelu_tanh"
)


@pytest.mark.parametrize(
    ("name", "own"), [("silu", "silu"), ("gelu", "gelu"), ("gelu_new", "gelu_tanh"), (None, "relu")]
)
def test_an_activation_is_read_by_its_name_or_is_the_familys(name: str | None, own: str):
    assert activation_fields("act", default="relu").read({"act": name}, {}) == {"activation": own}


def test_gelus_approximation_is_written_as_the_family_calls_it():
    assert activation_fields("act", default="relu").write(CONFIG) == {"act": "gelu_pytorch_tanh"}
    assert activation_fields("act", default="relu", tanh_name="gelu_new").write(CONFIG) == {"act": "gelu_new"}


def test_an_activation_that_is_not_computed_is_refused():
    with pytest.raises(InputError, match=r"must have one of silu, .* at act, the ones computed here, but has 'mish'"):
        activation_fields("act", default="relu").read({"act": "mish"}, {})


def test_one_key_says_all_of_attentions_biases():
    assert ATTENTION_BIAS.read({"attention_bias": True}, {}) == {"qkv_bias": True, "output_bias": True}
    assert ATTENTION_BIAS.read({}, {}) == {"qkv_bias": False, "output_bias": False}
    with pytest.raises(InputError, match="must have a value of type bool at attention_bias, but has 'yes'"):
        ATTENTION_BIAS.read({"attention_bias": "yes"}, {})


def test_a_head_without_a_key_of_its_own_is_width_by_heads():
    fields = implied_head_dim("n_embd", "n_head")
    assert fields.read({}, {"width": 12, "num_heads": 3}) == {"head_dim": 4}
    assert fields.write(CONFIG) == {"n_embd": 8, "n_head": 2}
    wide = DecoderConfig(vocab_size=8, width=8, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=6, mlp_width=4)
    with pytest.raises(InputError, match=r"num_heads times head_dim must be width .* got 2 times 6 and 8"):
        fields.write(wide)


def test_heads_with_keys_are_the_familys_number_or_all_of_them():
    raw = {"num_attention_heads": 6}

    def kv_heads(**settings) -> int:
        keys = decoder_keys(eps=1e-6, max_position=10, tie=False, **settings)
        return next(key for key in keys if key.field == "num_kv_heads").read(raw)

    assert kv_heads() == 6
    assert kv_heads(kv_heads=4) == 4
