"""Two models that write together, against frequencies and against each of them alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from atkd_jax.generation.decoding import Ending
from atkd_jax.generation.generate import make_knobs, place_group, row_keys, write_rows
from atkd_jax.generation.rows import Plan
from atkd_jax.models import Decoder, DecoderConfig

CONFIG = DecoderConfig(
    vocab_size=13, width=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8, mlp_width=16, max_position=64
)
PROMPT = [3, 1, 4, 1, 5]


@pytest.fixture(scope="module")
def models():
    """A student and a teacher who disagree."""
    decoders = [Decoder(CONFIG, rngs=nnx.Rngs(seed)) for seed in (0, 1)]
    graphdef = nnx.split(decoders[0])[0]
    return graphdef, [jax.tree.map(lambda leaf: 6 * leaf, nnx.split(decoder)[1]) for decoder in decoders]


def plan_of(graphdefs, *, room=6, **more):
    settings = {"is_greedy": False, "top_k": None} | more
    return Plan(graphdefs, Ending(room, (), 0), **settings)


def rows_of(count):
    keys = row_keys(jax.random.key(0), range(count))
    return place_group([PROMPT] * count, keys, rows=count, pad_id=0, mesh=None)


@pytest.mark.parametrize("unstack", [True, False])
@pytest.mark.parametrize(("teacher_weight", "who"), [(0.0, 0), (1.0, 1)])
def test_a_mixture_of_one_is_that_one(models, teacher_weight, who, unstack):
    graphdef, params = models
    knobs = make_knobs(0.8, 0.9)
    together = plan_of((graphdef, graphdef), teacher_weight=teacher_weight, unstack=unstack)
    expected = write_rows(plan_of((graphdef,)), (params[who],), rows_of(4), knobs=knobs)
    assert write_rows(together, tuple(params), rows_of(4), knobs=knobs) == expected
    assert len({tuple(row) for row in expected}) > 1


def test_first_and_second_tokens_are_as_frequent_as_the_mixture_says(models):
    graphdef, params = models
    count, temperature, teacher_weight = 4000, 2.0, 0.3
    plan = plan_of((graphdef, graphdef), room=2, teacher_weight=teacher_weight)
    written = np.array(write_rows(plan, tuple(params), rows_of(count), knobs=make_knobs(temperature, None)))

    def mixture(tokens):
        logits = [nnx.merge(graphdef, own)(jnp.asarray([tokens]))[0, -1] / temperature for own in params]
        student, teacher = (np.asarray(jax.nn.softmax(row)) for row in logits)
        assert np.abs(student - teacher).sum() > 0.3
        return teacher_weight * teacher + (1 - teacher_weight) * student

    first = np.bincount(written[:, 0], minlength=13)
    likeliest = int(first.argmax())
    second = np.bincount(written[written[:, 0] == likeliest, 1], minlength=13)
    for counts, tokens in ((first, PROMPT), (second, [*PROMPT, likeliest])):
        expected = mixture(tokens)
        deviation = np.sqrt(counts.sum() * expected * (1 - expected))
        assert (np.abs(counts - counts.sum() * expected) < 4 * deviation + 1).all()


def test_only_words_of_the_tokenizer_are_written(models):
    graphdef, params = models
    rows = write_rows(plan_of((graphdef,), vocab_size=5), (params[0],), rows_of(16), knobs=make_knobs(5.0, None))
    assert set(np.unique(rows)) == set(range(5))
