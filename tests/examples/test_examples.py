"""The example programs run, and show what they say."""

import io
import json
import runpy
import tarfile
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
    steps = {"nnx_step", "linen_step", "equinox_step"}
    assert names == steps | {"gradient_study", "adakd_speech", "reffakd_digits", "score_answers"}


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


def test_digits_are_read_with_soft_labels_and_without(capsys):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        example = program("reffakd_digits")
        accuracies = example["main"](seeds=2, steps=100)
    # Ten classes by guessing would be a tenth; two weights that learn alike would be one and the same.
    assert all(0.8 < accuracy < 1 for found in accuracies.values() for accuracy in found)
    assert accuracies[0.0] != accuracies[0.5]
    out = capsys.readouterr().out
    assert "4 is most like 6:" in out
    assert "2 seeds" in out


def test_the_linear_autoencoder_is_the_best_one():
    from sklearn.decomposition import PCA

    images = np.random.default_rng(0).normal(size=(40, 9)).astype(np.float32)
    codes = np.asarray(program("reffakd_digits")["codes_of"](jnp.asarray(images), width=3))
    expected = PCA(3, svd_solver="full").fit(images)
    centred = codes - codes.mean(axis=0)
    np.testing.assert_allclose(np.abs(centred), np.abs(expected.transform(images)), rtol=1e-3, atol=1e-4)


def test_the_speech_example_trains_its_three_recognisers(capsys):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        rates = program("adakd_speech")["main"](steps=8, recordings=32)
    assert list(rates) == ["teacher", "untrained", "student, data alone", "student, AdaKD"]
    # Trained a little, a recogniser first learns to hear next to nothing, which is an error for every letter.
    assert rates["untrained"] > 1.5 > max(rates["student, data alone"], rates["student, AdaKD"])
    assert "teacher's mean loss" in capsys.readouterr().out


@pytest.mark.slow
def test_speech_is_recognised_better_after_adakd(capsys):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax and flax are not ours.
        rates = program("adakd_speech")["main"](steps=250, recordings=256)
    # One that hears nothing makes an error for every letter.
    assert rates["teacher"] < 0.7
    assert rates["student, AdaKD"] < min(0.8, rates["student, data alone"])
    assert capsys.readouterr().out.count("character error rate") == 4


@pytest.mark.parametrize(("one", "other", "edits"), [("", "abc", 3), ("kitten", "sitting", 3), ("abc", "abc", 0)])
def test_the_edit_distance(one, other, edits):
    assert program("adakd_speech")["edit_distance"](list(one), list(other)) == edits


def test_rated_sentences_become_answers_with_scores(tmp_path, capsys):
    """From a source distribution made here, which has the form of the real one."""
    example = program("score_answers")

    def archive(path, name, content):
        with tarfile.open(path, "w:gz") as file:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
        return path.read_bytes()

    ratings = "\ufeff1_1\t-3.2\tBad.\n1_2\t0.1\tIt is.\n2_1\t1.6\tGood.\n".encode()
    inner = archive(tmp_path / "inner.tar.gz", example["RATINGS"], ratings)
    outer = tmp_path / "outer.tar.gz"
    archive(outer, example["RESOURCES"], inner)
    assert example["main"](tmp_path / "answers.jsonl", outer) == 3
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [(line["item"], line["score"]) for line in lines] == [("product 1", 0), ("product 1", 2), ("product 2", 4)]
    assert "1, 0, 1, 0, 1" in capsys.readouterr().out
