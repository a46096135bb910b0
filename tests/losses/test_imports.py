"""`from atkd_jax import losses` in a fresh interpreter brings in jax and what jax brings in, and no more."""

import subprocess
import sys


def modules_after(statement):
    program = f"import sys; {statement}; print(' '.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_nothing_but_jax_is_imported():
    with_losses = modules_after("from atkd_jax import losses")
    with_jax = modules_after("import jax, jax.numpy, jax.custom_derivatives")
    assert with_losses - with_jax == {"atkd_jax"}
    assert not with_losses & {"flax", "optax", "torch", "transformers", "pydantic"}


def test_all_that_is_exported_exists():
    from atkd_jax import losses

    assert sorted(losses.__all__) == losses.__all__
    assert all(getattr(losses, name).__doc__ for name in losses.__all__)
