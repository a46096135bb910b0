import dataclasses

import jax
import pytest
from flax import nnx
from llama_oracle import GROUPED

from atkd_jax.errors import InputError
from atkd_jax.models import SIZES, Decoder, LongRopeScaling, sized_config

MILLIONS = {"m": 1.0, "b": 1000.0}


@pytest.mark.parametrize("name", SIZES)
def test_a_name_tells_the_number_of_parameters(name):
    like = dataclasses.replace(GROUPED, vocab_size=49_152, tie_embeddings=True)
    model = nnx.eval_shape(lambda: Decoder(sized_config(name, like=like), rngs=nnx.Rngs(0)))
    counted = model if name in ("135m", "360m", "1.7b") else model.layers
    millions = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(counted))) / 1e6
    assert millions == pytest.approx(float(name[:-1]) * MILLIONS[name[-1]], rel=0.06)


def test_all_but_the_shape_is_taken_from_the_other_config():
    config = sized_config("10M", like=GROUPED)
    assert {key: getattr(config, key) for key in SIZES["10m"]} == SIZES["10m"]
    assert dataclasses.replace(config, **{key: getattr(GROUPED, key) for key in SIZES["10m"]}) == GROUPED


def test_what_goes_with_a_shape_is_fitted_to_it():
    like = dataclasses.replace(
        GROUPED,
        num_kv_heads=4,
        rotary_dim=2,
        query_scalar=9,
        embed_width=12,
        window=5,
        windowed_layers=(True, False, False),
        rope_scaling=LongRopeScaling((1.5,), (4.0,), 64, 1.2),
    )
    config = sized_config("1m", like=like)
    assert config.rope_scaling == LongRopeScaling((1.5,) * 4, (4.0,) * 4, 64, 1.2)
    assert (config.num_heads, config.num_kv_heads, config.head_dim, config.rotary_dim) == (4, 4, 32, 8)
    assert (config.query_scalar, config.embed_width) == (32, None)
    assert config.windowed_layers == (True, False, False, True, False)


def test_an_unknown_name_gets_the_list_and_the_nearest():
    with pytest.raises(InputError, match=r"must be one of 0\.3m, 1m, .*, 1\.7b, got '1.7'; did you mean 1\.7b\?"):
        sized_config("1.7", like=GROUPED)
    with pytest.raises(InputError, match="got 'huge'; choose one of them"):
        sized_config("huge", like=GROUPED)
