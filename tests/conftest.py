"""Settings that every test runs under: eight CPU devices, strict types, a shared compilation cache, no network."""

import gc
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # For what is imported below, whichever folder pytest was started from.

from compilation import FLAGS, forget_programs_where_memory_is_short

os.environ.setdefault("XLA_FLAGS", f"--xla_force_host_platform_device_count=8 {FLAGS}")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Collectives of eight devices that wait for each other hold a thread each, two where they are independent. As many
# threads as devices are too few, and two programs in flight at once need twice as many.
os.environ.setdefault("NPROC", "64")
os.environ.setdefault("JAX_CPU_ENABLE_ASYNC_DISPATCH", "false")
# There are as many processes as cores: the oracles' threads, PyTorch's and BLAS's, would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Inherited by the processes that tests start, so that they too compile each program once. Tests compile thousands of
# programs of a few milliseconds each, which together take longer than the large ones: all of them are kept.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import hypothesis
import jax
import pytest

pytest_plugins = ["tiny_models", "smollm2", "forked_runs", "openai_server", "run_directories", "study_directories"]

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
hypothesis.settings.register_profile("default", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("default")


def pytest_collection_finish():
    # Modules and tests stay to the end: the garbage collector need not look through them again and again; nor so often
    # through what jax keeps of its programs, which are millions of objects.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 50)


@pytest.fixture(scope="module", autouse=True)
def _memory_of_a_file():
    yield
    forget_programs_where_memory_is_short()
