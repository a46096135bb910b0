"""The example programs run, and show what they say."""

import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from atkd_jax import losses

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def program(name):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def test_every_example_is_run_here():
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == {"nnx_step", "linen_step", "equinox_step", "gradient_study"}


@pytest.mark.parametrize("name", ["nnx_step", "linen_step", "equinox_step"])
def test_a_student_learns(name, capsys):
    with jax.numpy_dtype_promotion("standard"):  # The optimizer is not ours.
        history = program(name)["main"](steps=20)
    assert np.isfinite(history).all()
    assert history[-1] < 0.6 * history[0]
    assert "last loss" in capsys.readouterr().out


def test_microbatches_of_the_equinox_example_add_up_to_the_batch():
    example = program("equinox_step")
    teacher, student = (example["LanguageModel"](width, jax.random.key(width)) for width in (128, 16))
    tokens = jax.random.randint(jax.random.key(2), (8, 9), 0, example["VOCABULARY"])
    mask = jnp.ones(tokens.shape, bool)
    optimizer = optax.sgd(0.0)
    *_, loss = example["train_step"](student, teacher, optimizer, optimizer.init(None), tokens, mask)
    student_logits, teacher_logits = (example["logits_of"](model, tokens[:, :-1]) for model in (student, teacher))
    logits = {"student_logits": student_logits, "teacher_logits": example["SHARPNESS"] * teacher_logits}
    expected, _ = losses.atkd(**logits, targets=tokens[:, 1:], mask=mask[:, 1:])
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_the_study_shows_the_damping(capsys):
    rows = program("gradient_study")["main"]()
    uncertainties = [row.uncertainty for row in rows]
    assert uncertainties == sorted(uncertainties)
    # Diversity pulls alike in every group; damped by UNC it vanishes where the teacher is sure.
    assert rows[0].damped_diversity_kd < 0.2 * rows[-1].damped_diversity_kd
    assert rows[0].diversity_kd > 0.5 * rows[-1].diversity_kd
    assert len(capsys.readouterr().out.splitlines()) == len(rows) + 1
