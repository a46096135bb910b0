import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from atkd_jax.errors import InputError
from atkd_jax.interop.stablehlo import export_stablehlo
from atkd_jax.models import TextScorer


def test_the_file_alone_gives_the_models_numbers_for_any_number_of_rows(tmp_path):
    model = TextScorer(50, 3, width=8, rngs=nnx.Rngs(params=0))
    rows = np.random.default_rng(0).integers(0, 50, (5, 6)).astype(np.int32)
    path = tmp_path / "model.stablehlo"
    assert export_stablehlo(model, path, rows=rows) < 1e-5
    called = jax.export.deserialize(bytearray(path.read_bytes())).call
    np.testing.assert_allclose(called(rows[:2]), model(rows[:2]), rtol=1e-5, atol=1e-6)
    assert set(jax.export.deserialize(bytearray(path.read_bytes())).platforms) == {"cpu", "cuda", "tpu"}


def test_a_file_with_other_numbers_is_refused(tmp_path):
    calls = []

    def moody(rows):
        calls.append(rows)
        return rows + jnp.float32(len(calls))

    with pytest.raises(InputError, match="must give the model's numbers, but differs from them by"):
        export_stablehlo(moody, tmp_path / "moody.stablehlo", rows=np.ones((2, 1), np.float32))
