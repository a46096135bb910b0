"""The batches of a run: those of its data, and what its models write between the steps."""

from typing import Any

from jax.sharding import Mesh

from atkd_jax.config import Config
from atkd_jax.data import Template, open_source, training_batches
from atkd_jax.sharding import Meshes, row_share
from atkd_jax.training.rollout_batches import RolloutBatches, rollout_batches
from atkd_jax.training.run_models import RunModels
from atkd_jax.training.shared_batches import SharedBatches
from atkd_jax.training.shared_directory import turn_on_this_host
from atkd_jax.training.teacher_text import training_source
from atkd_jax.training.teaching import Cached


def open_batches(
    config: Config, tokenizer: Any, mesh: Mesh, *, teacher_tokenizer: Any = None, cached: Cached | None = None
) -> SharedBatches:
    """Returns the run's training batches, this process's rows of each, at their beginning.

    Args:
        config: The run.
        tokenizer: The student's.
        mesh: Over which the rows are split.
        teacher_tokenizer: The teacher's, whose ids the batches hold too where the objective pairs tokens.
        cached: With a cache they have what the teacher says as well.
    """
    own = teacher_tokenizer if config.objective.pairs_tokens else None
    return _open_batches(config, tokenizer, mesh, *training_source(config), cached, own)


def _open_batches(
    config: Config,
    tokenizer: Any,
    mesh: Mesh,
    source: str,
    split: str,
    cached: Cached | None = None,
    teacher_tokenizer: Any = None,
) -> SharedBatches:
    with turn_on_this_host(config.cache_dir):
        examples = open_source(source, split=split, cache_dir=config.cache_dir)
    share = row_share(mesh)
    batches = training_batches(
        examples,
        tokenizer,
        template=config.data.template,
        sequence_length=config.data.sequence_length,
        batch_size=config.training.batch_size,
        packing=config.data.packing,
        overlong=config.data.overlong,
        seed=config.seed,
        process_index=share.index,
        process_count=share.count,
        signals=None if cached is None else cached.open_signals(),
        signals_name=None if cached is None else cached.name,
        teacher_tokenizer=teacher_tokenizer,
    )
    length = config.data.sequence_length
    return SharedBatches(batches, share, example_count=len(examples), sequence_length=length)


def with_rollouts(
    config: Config, batches: SharedBatches, meshes: Meshes, models: RunModels, tokenizer: Any
) -> RolloutBatches:
    """Returns the batches with those rows written anew that the config has the models write.

    Args:
        config: The run.
        batches: Of its data.
        meshes: How the devices are arranged for each model.
        models: Who may write.
        tokenizer: The student's.
    """
    corpus = None
    if config.data.corpus is not None:
        # Plain text has no turns, and any number of texts may share a row.
        data = config.data.model_copy(update={"template": "plain", "packing": True})
        plain = config.model_copy(update={"data": data})
        corpus = _open_batches(plain, tokenizer, meshes.student, config.data.corpus, config.data.corpus_split)
    return rollout_batches(
        config.rollout,
        batches,
        corpus=corpus,
        form=Template(config.data.template, tokenizer),
        student=models.student_graph,
        teacher=models.teacher_graph,
        teacher_params=models.teacher_params,
        vocab_size=models.vocabularies.student,
        meshes=meshes,
        batch_size=config.training.batch_size,
        steps=config.training.steps,
        seed=config.seed,
    )
