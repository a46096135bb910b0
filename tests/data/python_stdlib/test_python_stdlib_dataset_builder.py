import json
import subprocess
import sys

import pytest

PREPARE = """
import json, sys
from atkd_jax.data import open_source
lines = []
NAMES = ("train", "validation", "test")
for _ in range(2):
    splits = {
        split: open_source("python_stdlib", split=split, cache_dir=sys.argv[1], report=lines.append)
        for split in (*NAMES, "train[:10%]")
    }
print(json.dumps({
    "lengths": {split: len(examples) for split, examples in splits.items()},
    "modules": {split: sorted({record["module"].decode() for record in splits[split]._records}) for split in NAMES},
    "responses": [splits[split][index].response for split in NAMES for index in range(len(splits[split]))],
    "test_prompts": [splits["test"][index].prompt for index in range(len(splits["test"]))],
    "first": [splits["train"][0].prompt, splits["train"][0].response],
    "lines": lines,
    "tensorflow": [name for name in sys.modules if name.split(".")[0] in ("tensorflow", "torch")],
}))
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """What a fresh interpreter, in which every warning is an error, makes of the standard library."""
    folder = tmp_path_factory.mktemp("cache")
    command = [sys.executable, "-W", "error", "-c", PREPARE, str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return folder, run, json.loads(run.stdout.splitlines()[-1])


def test_it_is_prepared_without_tensorflow_and_without_noise(prepared):
    _, run, result = prepared
    assert result["tensorflow"] == []
    assert len(run.stdout.splitlines()) == 1
    assert run.stderr == ""


def test_one_line_tells_of_the_preparation_and_none_of_the_second_use(prepared):
    _, _, result = prepared
    (line,) = result["lines"]
    total = sum(result["lengths"][split] for split in ("train", "validation", "test"))
    assert line.startswith(f"python_stdlib: prepared {total:,} examples in ")


def test_the_splits_share_no_module_and_no_response(prepared):
    _, _, result = prepared
    modules = [module for split in result["modules"].values() for module in split]
    assert len(modules) == len(set(modules)) > 300
    assert not [module for module in modules if "test" in module.split(".")[:-1]]
    assert len(result["responses"]) == len(set(result["responses"]))


def test_the_splits_are_about_90_to_5_to_5(prepared):
    _, _, result = prepared
    lengths = result["lengths"]
    total = lengths["train"] + lengths["validation"] + lengths["test"]
    assert total > 4000
    assert 0.85 < lengths["train"] / total < 0.95
    assert lengths["validation"] > 0.03 * total
    assert lengths["test"] > 0.03 * total
    assert lengths["train[:10%]"] == round(lengths["train"] / 10)


def test_examples_of_one_module_do_not_stand_together(prepared):
    _, _, result = prepared
    words = [prompt.split("`")[1] for prompt in result["test_prompts"]]
    assert words != sorted(words)


def test_the_folder_carries_the_version_of_the_interpreter(prepared):
    folder, _, result = prepared
    version = f"cpython_{sys.version_info.major}_{sys.version_info.minor}_{sys.version_info.micro}"
    (home,) = (folder / "tfds" / "python_stdlib").glob("*python*_3_*")
    assert home.name == version
    assert [path.name for path in home.iterdir()] == ["1.0.0"]
    assert any(path.name.endswith(".array_record-00000-of-00001") for path in (home / "1.0.0").iterdir())
    assert result["first"][1].startswith(("def ", "async def "))
