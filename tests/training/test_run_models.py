import jax
import numpy as np
from flax import nnx

from atkd_jax.interop import load_model
from atkd_jax.models import TokenSimilarity


def test_what_is_trained_is_the_student_and_what_teaches_is_the_teacher(prepared, tiny_teacher_directory):
    models, state, _ = prepared()
    teacher = load_model(tiny_teacher_directory)
    for ours, theirs in zip(jax.tree.leaves(models.teacher_params), jax.tree.leaves(nnx.state(teacher)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert jax.tree.structure(state.params) == jax.tree.structure(models.teacher_params)
    assert (models.student_config.num_layers, models.teacher_config.num_layers) == (2, 4)
    assert models.vocabularies == (teacher.config.vocab_size, None)  # The teacher has no other ids.
    assert not jax.tree.leaves(models.student_frozen)
    assert int(state.step) == 0


def test_of_a_student_with_adapters_the_rest_is_frozen(prepared):
    models, state, _ = prepared(student={"layers": 2, "lora": {"rank": 2, "targets": ["query"]}})
    trained, frozen = (
        sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (state.params, models.student_frozen)
    )
    assert trained == 2 * 2 * (32 + 32)
    assert frozen > 10 * trained


def test_where_tokens_teach_their_likeness_stands_in_the_teachers_place(prepared):
    objective = {"name": "forward_kl", "cross_entropy_weight": 0.5, "token_similarity": {"scale": 4.0, "delta": 0.1}}
    models, _, _ = prepared(objective=objective)
    merged = nnx.merge(models.teacher_graph, models.teacher_params)
    assert isinstance(merged, TokenSimilarity)
    # The layers are not there, only the embedding.
    assert max(leaf.ndim for leaf in jax.tree.leaves(models.teacher_params)) == 2


def test_attention_is_computed_as_the_config_says(prepared):
    models, state, _ = prepared(training={"steps": 2, "batch_size": 8, "attention": "xla"})
    teacher = nnx.merge(models.teacher_graph, models.teacher_params)
    student = nnx.merge(models.student_graph, state.params, *models.student_frozen)
    assert [model.layers.attention.kernel for model in (teacher, student)] == ["xla", "xla"]
