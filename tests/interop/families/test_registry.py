import dataclasses

import pytest

from atkd_jax.errors import InputError
from atkd_jax.interop.families import FAMILIES, family_for_gguf, family_of_config, family_of_json
from atkd_jax.interop.families.llama import LLAMA
from atkd_jax.models import DecoderConfig

CONFIG = DecoderConfig(vocab_size=8, width=4, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=4, mlp_width=4)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_is_found_by_its_names(family):
    assert family_of_json({"model_type": family.name}) is family
    if family.gguf:
        assert family_for_gguf(family.gguf.architecture).gguf.architecture == family.gguf.architecture


def test_of_families_that_are_written_alike_one_is_read():
    assert family_for_gguf("llama") is LLAMA


def test_a_config_finds_the_family_that_can_say_it():
    assert family_of_config(CONFIG) is LLAMA


def test_an_unknown_family_is_refused_with_those_known():
    with pytest.raises(InputError, match=r"must have a model_type among llama.*, but has 'rwkv'"):
        family_of_json({"model_type": "rwkv"})
    with pytest.raises(InputError, match=r"must have an architecture among llama.*, but has 'rwkv'"):
        family_for_gguf("rwkv")


def test_a_config_that_its_family_cannot_say_is_refused_with_what_it_can_say():
    for changes, words in (
        ({"norm": "layer"}, "the family llama must have norm='rms' here, got 'layer'; choose a shape"),
        ({"qkv_bias": True}, "the family llama must have output_bias=True here, got False"),
        ({"family": "gpt2"}, r"the family gpt2 must have norm_eps|the family gpt2 must have"),
        ({"family": "mamba"}, "must have a model_type among llama, .*, but has 'mamba'"),
    ):
        with pytest.raises(InputError, match=words):
            family_of_config(dataclasses.replace(CONFIG, **changes))


def test_the_families_that_the_paper_and_today_ask_for_are_there():
    assert {family.name for family in FAMILIES} == {
        "llama",
        "mistral",
        "qwen2",
        "qwen3",
        "gemma2",
        "gemma3_text",
        "phi3",
        "olmo2",
        "smollm3",
        "opt",
        "gpt_neox",
        "gpt2",
        "mixtral",
        "qwen3_moe",
    }
