"""TFDS builder of `python_stdlib`: docstring -> function, from the standard library of the running interpreter.

It downloads nothing and needs no TensorFlow when it is prepared with `file_format="array_record"` and read with
`as_data_source`. `atkd_jax.data.open_source("python_stdlib", ...)` does both.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds
from etils import epath

from atkd_jax.data.python_stdlib import functions

# Another interpreter has another standard library, so it gets a folder of its own.
CONFIG_NAME = f"{sys.implementation.name}_{sys.version_info.major}_{sys.version_info.minor}_{sys.version_info.micro}"


class Builder(tfds.core.GeneratorBasedBuilder):
    """Prompts that ask for a function by its signature and docstring, and the function's source as response."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012  declared by TFDS, which never changes it
    BUILDER_CONFIGS = [  # noqa: RUF012
        tfds.core.BuilderConfig(name=CONFIG_NAME, version=VERSION, description="The running interpreter's source.")
    ]
    # TFDS's own way to find this file needs importlib_resources, which TFDS does not install on this Python.
    code_path = epath.Path(__file__)

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        return self.dataset_info_from_configs(
            description="Functions of Python's standard library, asked for by signature and docstring.",
            features=tfds.features.FeaturesDict({"prompt": text, "response": text, "module": text, "name": text}),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        found = list(functions.standard_library_functions(Path(sysconfig.get_path("stdlib"))))
        return {
            split: self._generate_examples([f for f in found if functions.split_of_module(f.module) == split])
            for split in ("train", "validation", "test")
        }

    def _generate_examples(self, found: list[functions.Function]) -> Iterator[tuple[str, dict[str, str]]]:
        for number, function in enumerate(found):
            # TFDS orders a split by the hash of the key, so its first examples come from many modules.
            yield (
                f"{function.module}.{function.qualified_name}:{number}",
                {
                    "prompt": function.prompt,
                    "response": function.response,
                    "module": function.module,
                    "name": function.qualified_name,
                },
            )
