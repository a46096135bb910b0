import io
import math

import jax
import pytest
import yaml
from flax import nnx
from rich.console import Console

from atkd_jax.commands import dry_run
from atkd_jax.config import Config
from atkd_jax.config_neighbours import TokenSimilarityConfig
from atkd_jax.interop import load_model, read_config
from atkd_jax.models import Pruning, prune_model
from atkd_jax.sharding import make_meshes
from atkd_jax.training.student import student_config


@pytest.fixture
def plan(untrained, tiny_teacher_directory):
    def make(config: Config = untrained, **axes):
        teacher = read_config(tiny_teacher_directory)
        student = student_config(config.student, teacher=teacher)
        return dry_run.make_plan(config, meshes=make_meshes(**axes), teacher=teacher, student=student)

    return make


def bytes_of(plan, what):
    (line,) = [line for line in plan.memory if line.what == what]
    return line


def real_size(model):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model)))


def test_parameters_are_counted_as_they_are(plan, tiny_teacher_directory):
    teacher = load_model(tiny_teacher_directory)
    found = plan()
    assert found.teacher_parameters == real_size(teacher)
    assert found.student_parameters == real_size(prune_model(teacher, Pruning((0, 3))))
    assert sum(math.prod(own.shape) for own in found.student) == found.student_parameters
    assert "embedding" in {own.name for own in found.student}


def test_memory_is_counted_from_shapes(plan, untrained):
    found = plan()
    student = 4 * found.student_parameters
    assert bytes_of(found, "student's weights").total_bytes == student
    assert bytes_of(found, "student's gradient").total_bytes == student
    # Two moments, and counters of a few bytes.
    assert 0 <= bytes_of(found, "optimizer's state").total_bytes - 2 * student < 100
    tokens = untrained.training.batch_size * untrained.data.sequence_length
    assert bytes_of(found, "batch").total_bytes == 13 * tokens
    assert bytes_of(found, "teacher's hidden states").total_bytes == 4 * tokens * 32
    vocab_size = read_config(untrained.teacher.model).vocab_size
    assert bytes_of(found, "both models' logits").total_bytes == 2 * 4 * tokens * vocab_size


def test_one_device_holds_a_chunk_of_logits(plan, untrained):
    small = untrained.model_copy(update={"training": untrained.training.model_copy(update={"chunk_tokens": 16})})
    found = plan(small, devices=jax.devices()[:1])
    vocab_size = read_config(untrained.teacher.model).vocab_size
    assert bytes_of(found, "both models' logits").total_bytes == 2 * 4 * 16 * vocab_size


def test_a_mesh_divides_what_it_splits(plan):
    alone, split = plan(), plan(fsdp=4, tensor=2)
    weights = bytes_of(split, "student's weights")
    assert weights.total_bytes == bytes_of(alone, "student's weights").total_bytes
    assert weights.device_bytes < weights.total_bytes / 2
    (embedding,) = [own for own in split.student if own.name == "embedding"]
    assert embedding.axes == ("tensor", "fsdp")
    assert embedding.shard_shape == (embedding.shape[0] // 2, embedding.shape[1] // 4)


def test_a_half_precise_teacher_takes_half(plan, untrained):
    changed = untrained.model_copy(update={"teacher": untrained.teacher.model_copy(update={"dtype": "bfloat16"})})
    whole, half = bytes_of(plan(), "teacher's weights"), bytes_of(plan(changed), "teacher's weights")
    assert 2 * half.total_bytes == whole.total_bytes


def test_a_teacher_whose_layers_never_run_is_its_embeddings(plan, untrained, tiny_teacher_directory):
    objective = untrained.objective.model_copy(
        update={"name": "forward_kl", "token_similarity": TokenSimilarityConfig(scale=4.0)}
    )
    config = untrained.model_copy(update={"objective": objective})
    shape = read_config(tiny_teacher_directory)
    found = plan(config)
    assert found.teacher_parameters == shape.vocab_size * shape.width
    assert bytes_of(found, "teacher's weights").total_bytes == 4 * shape.vocab_size * shape.width
    assert found.student == plan().student
    stream = io.StringIO()
    dry_run.print_dry_run(config, console=Console(file=stream, width=140))
    assert "its embeddings, which teach" in stream.getvalue()


def test_it_prints_the_config_and_the_plan_and_starts_nothing(untrained):
    stream = io.StringIO()
    dry_run.print_dry_run(untrained, console=Console(file=stream, width=140))
    text = stream.getvalue()
    assert Config.model_validate(yaml.safe_load(text.partition("mesh:")[0])) == untrained
    assert "mesh: data 8, fsdp 1, sequence 1, tensor 1" in text
    for words in ("layers.attention.query.kernel", "optimizer's state", "MiB", "Nothing was started."):
        assert words in text
    assert not untrained.run_dir.exists()
