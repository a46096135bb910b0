import pytest

from atkd_jax.errors import InputError
from atkd_jax.models import DecoderConfig
from atkd_jax.training.vocabularies import Vocabularies, vocabularies


def shape(vocab_size):
    return DecoderConfig(vocab_size, 8, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=8, mlp_width=8)


IDS, OTHER_IDS = range(151_665), range(50_000)


def test_padding_is_told_once_with_its_size():
    """Qwen2.5's 7B and 1.5B, as they are published."""
    own, sentence = vocabularies(IDS, IDS, teacher=shape(152_064), student=shape(151_936))
    assert own == Vocabularies(151_665, None)
    assert sentence == (
        "Columns of the head beyond the tokenizer's ids are padding and left out: 399 of the teacher's, "
        "271 of the student's."
    )


def test_heads_of_the_tokenizers_sizes_are_not_worth_a_word():
    assert vocabularies(IDS, OTHER_IDS, teacher=shape(50_000), student=shape(151_665)) == (
        Vocabularies(151_665, 50_000),
        None,
    )


def test_a_head_that_is_too_small_is_refused():
    with pytest.raises(InputError, match=r"The student's head must have .* 151,665 ids, but has 151,000; choose"):
        vocabularies(IDS, IDS, teacher=shape(152_064), student=shape(151_000))
