"""The models of a family's test class, one after the other, and a tokenizer that fits their vocabulary."""

from functools import cache
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from atkd_jax.interop import load_model
from atkd_jax.models import Decoder


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case_name" in metafunc.fixturenames:
        metafunc.parametrize("case_name", metafunc.cls.cases)


@pytest.fixture(scope="session")
def tiny_tokenizer_97() -> PreTrainedTokenizerFast:
    words = {f"w{number}": number for number in range(97)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")), eos_token="w1")


@pytest.fixture(scope="class")
def opened(request, tmp_path_factory):
    """Name of a case -> transformers' model, the directory that it saved, and ours out of it."""

    @cache
    def open_case(name: str) -> tuple[torch.nn.Module, Path, Decoder]:
        directory = tmp_path_factory.mktemp("family")
        oracle = request.cls.cases[name].model()
        oracle.save_pretrained(directory)
        return oracle, directory, load_model(directory)

    return open_case
