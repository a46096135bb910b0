"""One config on several meshes: the curve and the gradients of one device, in float32, and what devices exchange."""

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from atkd_jax.config import Config
from atkd_jax.errors import InputError
from atkd_jax.models import Decoder, DecoderConfig, logical_axes
from atkd_jax.sharding import make_meshes, parameter_shardings, shard_batch, spread
from atkd_jax.sharding.collectives import collectives_of
from atkd_jax.sharding.compiled_text import parse_program, runs
from atkd_jax.training.compiled_step import jitted_train_step, require_even_batch
from atkd_jax.training.optimizer import make_optimizer
from atkd_jax.training.placement import place_state

# No other array has as many columns as there are words, or as words on one of two devices.
STEPS, ROWS, LENGTH, VOCAB, CHUNK = 20, 16, 16, 46, 32
SHAPE = {"vocab_size": VOCAB, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "mlp_width": 24}
MESHES = {
    "8": {},
    "4 x 2": {"fsdp": 4, "tensor": 2},
    "2 x 2 x 2": {"fsdp": 2, "tensor": 2},
    "2 x 2 x 2 with sequence": {"fsdp": 2, "sequence": 2, "tensor": 1},
    "a teacher's own": {"fsdp": 2, "sequence": 2, "tensor": 2, "teacher_fsdp": 4, "teacher_tensor": 1},
}


def config_of(**mesh):
    return Config.model_validate(
        {
            "mesh": mesh,
            "data": {"sequence_length": LENGTH},
            "training": {"steps": STEPS, "batch_size": ROWS, "microbatches": 2, "chunk_tokens": CHUNK},
            "optimizer": {"learning_rate": 3e-3, "warmup_steps": 3},
        }
    )


def batches():
    rng = np.random.default_rng(0)
    segments = np.sort(rng.integers(0, 3, (STEPS, ROWS, LENGTH)), axis=-1)[..., ::-1].astype(np.int32)
    # A place of padding is segment 0, and every row has at least one token of segment 1.
    segments[..., 0] = np.maximum(segments[..., 0], 1)
    starts = np.diff(segments, axis=-1, prepend=-1) != 0
    places = np.arange(LENGTH)
    positions = places - np.maximum.accumulate(np.where(starts, places, 0), axis=-1)
    tokens = rng.integers(0, VOCAB, segments.shape).astype(np.int32)
    mask = (segments > 0) & (rng.random(segments.shape) < 0.8)
    names = ("tokens", "positions", "segment_ids", "loss_mask")
    arrays = (tokens, positions.astype(np.int32), segments, mask)
    return [dict(zip(names, each, strict=True)) for each in zip(*arrays, strict=True)]


def moved_logits(text, num_devices):
    """Collectives of arrays with a column per word and more rows than a head has."""
    program = parse_program(text)
    found = [
        (each.kind, shape)
        for run in runs(program, turns=lambda loop: 1)
        for each in collectives_of(program, run, num_devices)
        for shape in each.shapes
        if {VOCAB, VOCAB // 2} & {*shape} and np.prod(shape) >= CHUNK * VOCAB // 2
    ]
    return [each for each in found if each[1] not in {(20, VOCAB), (28, VOCAB), (VOCAB, 20), (VOCAB, 28)}]


def curve(mesh, devices):
    """The losses of all steps, the gradient of the first one, the last parameters and the compiled text."""
    config = config_of(**mesh)
    meshes = make_meshes(**mesh, devices=devices)
    require_even_batch(config, meshes)
    teacher, teacher_params = nnx.split(
        Decoder(DecoderConfig(width=28, num_layers=2, window=6, **SHAPE), rngs=nnx.Rngs(params=0))
    )
    # A teacher with larger weights is surer of itself, so that easy and hard tokens differ.
    teacher_params = jax.tree.map(lambda leaf: 4.0 * leaf, teacher_params)
    student, params = nnx.split(Decoder(DecoderConfig(width=20, num_layers=1, **SHAPE), rngs=nnx.Rngs(params=1)))
    teacher_params = spread(
        teacher_params, parameter_shardings(meshes.teacher, logical_axes(teacher_params), teacher_params)
    )
    optimizer = make_optimizer(config.optimizer, steps=STEPS)
    state = place_state(params, mesh=meshes.student, optimizer=optimizer, seed=0)
    step = jitted_train_step(
        config,
        meshes=meshes,
        student=student,
        teacher=teacher,
        optimizer=optimizer,
        vocab_size=VOCAB,
        state=jax.tree.map(lambda leaf: leaf.sharding, state),
        teacher_params=jax.tree.map(lambda leaf: leaf.sharding, teacher_params),
    )
    placed = [shard_batch(meshes.student, batch) for batch in batches()]
    compiled = step.lower(state, teacher_params, placed[0]).compile()
    losses, gradient = [], None
    for batch in placed:
        before = state
        state, metrics = compiled(state, teacher_params, batch)
        assert jax.tree.leaves(before.params)[0].is_deleted()
        if gradient is None:  # Adam's first mean of it is a tenth of it.
            gradient = jax.device_get(state.optimizer_state[1][0].mu)
        losses.append(float(metrics["loss"]))
    return losses, gradient, jax.device_get(state.params), compiled.as_text()


@pytest.fixture(scope="module")
def of_one_device():
    return curve({}, jax.devices()[:1])


@pytest.mark.parametrize("mesh", MESHES)
def test_every_mesh_gives_one_devices_curve_and_gradient(of_one_device, mesh):
    losses, gradient, params, _ = of_one_device
    mesh_losses, mesh_gradient, mesh_params, text = curve(MESHES[mesh], jax.devices())
    assert not moved_logits(text, len(jax.devices()))
    np.testing.assert_allclose(mesh_losses, losses, rtol=1e-5)
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    for ours, theirs in zip(jax.tree.leaves(mesh_gradient), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())
    for ours, theirs in zip(jax.tree.leaves(mesh_params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


def test_moved_logits_would_be_seen():
    mesh = make_meshes(fsdp=4, tensor=2).student
    hidden = jax.ShapeDtypeStruct((ROWS * LENGTH, 20), np.float32, sharding=NamedSharding(mesh, PartitionSpec("fsdp")))
    head = jax.ShapeDtypeStruct((20, VOCAB), np.float32, sharding=NamedSharding(mesh, PartitionSpec(None, "tensor")))
    whole = NamedSharding(mesh, PartitionSpec())
    text = jax.jit(lambda hidden, head: hidden @ head, out_shardings=whole).lower(hidden, head).compile().as_text()
    assert moved_logits(text, 8)


@pytest.mark.parametrize(
    ("mesh", "changes", "message"),
    [
        ({}, {"training": {"batch_size": 20}}, "batch_size=20 must be a multiple of 8: 8 devices share the rows"),
        ({"fsdp": 2, "tensor": 4, "teacher_tensor": 1}, {"training": {"batch_size": 4}}, "4 must be a multiple of 8"),
        ({"sequence": 4}, {"data": {"sequence_length": 24}}, "sequence_length=24 must be a multiple of 16, the square"),
    ],
)
def test_a_batch_that_does_not_fall_into_equal_parts_is_refused(mesh, changes, message):
    meshes = make_meshes(**mesh)
    even = {"training": {"batch_size": 16}, "data": {"sequence_length": 16}}
    require_even_batch(Config.model_validate({"mesh": mesh} | even), meshes)
    with pytest.raises(InputError, match=message):
        require_even_batch(
            Config.model_validate({"mesh": mesh} | even | changes), make_meshes(**mesh, devices=jax.devices())
        )
