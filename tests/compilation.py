"""How tests have their programs compiled, and how a process lets go of those that no test will run again."""

import ctypes
import gc
import os
from pathlib import Path

# Tests run small programs once: what they cost is compilation. LLVM's optimiser would double it; so would MLIR's passes
# over every fusion, and cutting a program of a few instructions into 32 parts to compile them on threads of their own.
FLAGS = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)
# A process of a whole suite compiles ten thousand programs and jax keeps them all. To forget them costs the next files
# what they share, so that it is done only now and then.
_MOST_BYTES = 2 * 2**30
_MEMORY = Path("/proc/self/statm")


def forget_programs_where_memory_is_short() -> None:
    """Lets go of all compiled programs if this process has become large."""
    if not _MEMORY.exists() or int(_MEMORY.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") < _MOST_BYTES:
        return
    import jax  # Not before the settings are made that it reads.

    jax.clear_caches()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
