import jax
import pytest

from atkd_jax.generation import answer
from atkd_jax.interop import load_model


@pytest.fixture(scope="module")
def model(tiny_teacher_directory):
    return load_model(tiny_teacher_directory)


def test_answers_can_be_drawn(model, tiny_tokenizer):
    def drawn(seed):
        settings = {"template": "plain", "max_new_tokens": 12, "temperature": 1.0, "key": jax.random.key(seed)}
        return answer(model, ["Add 1"], tiny_tokenizer, **settings)

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
