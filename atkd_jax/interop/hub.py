"""Models from the Hugging Face hub: whether it answers, and a model's files without pickles and without code."""

from __future__ import annotations

import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

from atkd_jax.errors import InputError
from atkd_jax.interop.tensor_files import list_tensors, read_json

# Weights as safetensors, configs and tokenizers. Pickle files and Python files are on no list and so never come.
_DESCRIPTION = ("*.json", "*.jinja", "tokenizer.model", "merges.txt", "README.md", "LICENSE*")
_WANTED = ("*.safetensors", *_DESCRIPTION)
# Folders hold other forms of the same weights (onnx/, original/), and so do these files.
_UNWANTED = ("*/*", "consolidated*")
_PROBE_SECONDS = 4.0


def _answers(endpoint: str) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=_PROBE_SECONDS):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500  # it speaks, if only to refuse this address
    except (OSError, ValueError):
        return False


def hub_answers() -> bool:
    """Return whether the hub can be asked now: false after 4 seconds at the latest, or where HF_HUB_OFFLINE is set."""
    if constants.HF_HUB_OFFLINE:
        return False
    answers: list[bool] = []
    # In a thread of its own, because looking up a host's name heeds no time limit.
    probe = threading.Thread(target=lambda: answers.append(_answers(constants.ENDPOINT)), daemon=True)
    probe.start()
    probe.join(_PROBE_SECONDS)
    return bool(answers) and answers[0]


def find_in_hub_cache(hub_id: str, *, weights: bool = True) -> Path | None:
    """Return the directory of a model that was downloaded before into the machine's own hub cache, or None.

    Without `weights` these need not be there.
    """
    try:
        directory = Path(
            snapshot_download(
                hub_id, local_files_only=True, allow_patterns=list(_WANTED), ignore_patterns=list(_UNWANTED)
            )
        )
        read_json(directory / "config.json")
        if weights:
            list_tensors(directory)
    except (LocalEntryNotFoundError, OSError, ValueError):
        return None
    return directory


def _download(
    hub_id: str, partial: Path, *, wanted: Sequence[str] = _WANTED, unwanted: Sequence[str] = _UNWANTED
) -> None:
    try:
        # By its commit: asked for by a branch, what is there of an interrupted download would pass for the whole.
        commit = HfApi(endpoint=constants.ENDPOINT).model_info(hub_id).sha
        snapshot_download(
            hub_id,
            revision=commit,
            local_dir=partial,
            allow_patterns=list(wanted),
            ignore_patterns=list(unwanted),
            endpoint=constants.ENDPOINT,
        )
    except GatedRepoError:
        raise InputError(
            f"{hub_id} may be downloaded only by those who accepted its terms; accept them on its page at "
            f"{constants.ENDPOINT}/{hub_id} and set HF_TOKEN."
        ) from None
    except RepositoryNotFoundError:
        raise InputError(
            f"{hub_id} is no public model at {constants.ENDPOINT}; correct the name, or set HF_TOKEN if it is private."
        ) from None
    # The errors of the hub's client, of its HTTP library and of the disk have no class in common.
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{hub_id} could not be downloaded from {constants.ENDPOINT} ({why}); run the same again, and what has "
            "come so far is kept."
        ) from error


def download_file_from_hub(hub_id: str, path: str, folder: Path, *, report: Callable[[str], None]) -> Path:
    """Bring one file of a repository into a folder, and return where it is.

    Raises:
        InputError: where the file is not there, may not be had, or the connection fails.
    """
    report(f"Downloading {path} of {hub_id} from {constants.ENDPOINT}")
    _download(hub_id, folder, wanted=(path,), unwanted=())
    if not (folder / path).is_file():
        raise InputError(f"{hub_id} at {constants.ENDPOINT} holds no file {path}; correct its name.")
    return folder / path


def download_from_hub(hub_id: str, directory: Path, *, weights: bool = True, report: Callable[[str], None]) -> None:
    """Bring a model from the hub to `directory`, which appears when all of it is there.

    An interrupted download goes on where it stopped. Without `weights` only the config and the tokenizer come.

    Raises:
        InputError: where the model is not there, may not be had, holds no safetensors, or the connection fails.
    """
    what = hub_id if weights else f"config and tokenizer of {hub_id}"
    report(f"Downloading {what} from {constants.ENDPOINT} to {directory}")
    partial = directory.with_name(f".{directory.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    _download(hub_id, partial, wanted=_WANTED if weights else _DESCRIPTION)
    read_json(partial / "config.json")
    if weights:
        list_tensors(partial)
    shutil.rmtree(partial / ".cache", ignore_errors=True)
    # Another process may have brought the same model meanwhile: then its directory stays and this one goes.
    with suppress(OSError):
        partial.rename(directory)
    shutil.rmtree(partial, ignore_errors=True)
