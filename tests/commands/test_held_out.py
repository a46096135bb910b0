import pytest
from rich.console import Console

from atkd_jax.commands.held_out import measure_held_out
from atkd_jax.config import Config
from atkd_jax.data import open_source
from atkd_jax.interop import load_model, load_tokenizer
from atkd_jax.sharding import make_mesh


@pytest.fixture(scope="module")
def teacher(tiny_teacher_directory):
    return load_model(tiny_teacher_directory)


def measured(config, teacher, tokenizers):
    examples = open_source(config.data.source, split="train", cache_dir=config.cache_dir)
    models = dict.fromkeys(tokenizers, teacher)
    return measure_held_out(config, models, tokenizers, examples, mesh=make_mesh(), console=Console(quiet=True))


def test_models_of_one_tokenizer_are_compared_token_by_token(untrained, teacher, tiny_tokenizer):
    found = measured(untrained, teacher, dict.fromkeys(("teacher", "student before"), tiny_tokenizer))
    assert (found.counts.examples, found.counts.dropped) == (12, 0)
    assert found.report.scores["student before"].forward_kl == pytest.approx(0, abs=1e-6)
    assert found.report.scores["student before"].bits_per_byte is None
    assert len(found.report.deciles) == 10


def test_models_with_tokenizers_of_their_own_are_compared_per_byte(untrained, teacher, tiny_teacher_directory):
    changes = {
        "objective": {"name": "universal_logit"},
        "student": {"init": "directory", "directory": str(tiny_teacher_directory)},
    }
    config = Config.model_validate(untrained.model_dump(mode="json") | changes)
    tokenizers = {name: load_tokenizer(tiny_teacher_directory) for name in ("teacher", "student before")}
    found = measured(config, teacher, tokenizers)
    (first, second) = found.report.scores.values()
    assert first == second  # the same model, the same tokens
    assert first.forward_kl is None
    assert first.tokens == found.report.counted_tokens == found.counts.target_tokens
    text = "".join(f"def add(x):\n    return x + {number}\n" for number in range(12))
    assert found.report.text_bytes == len(text)
    lengths = {len(tokenizers["teacher"].encode(f"{number}")) for number in range(12)}
    assert lengths == {1, 2}
    data = config.data.model_copy(update={"sequence_length": found.counts.tokens // 12})
    assert 0 < measured(config.model_copy(update={"data": data}), teacher, tokenizers).counts.dropped < 12
