import subprocess
import sys

import pytest
import tensorflow_datasets as tfds
from etils import epath

from atkd_jax.data import tfds_examples
from atkd_jax.data.examples import Example
from atkd_jax.data.python_stdlib import functions
from atkd_jax.data.python_stdlib.functions import Function
from atkd_jax.data.tfds_examples import open_tfds
from atkd_jax.errors import InputError


class TinyInstructions(tfds.core.GeneratorBasedBuilder):
    """Six instructions, with the keys of databricks-dolly."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = epath.Path(__file__)
    keys = ("instruction", "context", "response")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict({key: tfds.features.Text() for key in self.keys})
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(6), "validation": self._generate_examples(2)}

    def _generate_examples(self, count):
        for number in range(count):
            yield number, {key: f"{key} {number} é" for key in self.keys}


class TinyQuestions(TinyInstructions):
    """The same under keys that no example has."""

    keys = ("question", "answer")


class TinyFault(TinyInstructions):
    """Breaks in the middle."""

    def _generate_examples(self, count):
        yield from list(super()._generate_examples(count))[:3]
        raise RuntimeError("the server\nhung up")


def test_a_registered_data_set_is_prepared_and_read(tmp_path, capfd):
    lines = []
    examples = open_tfds("tiny_instructions", split="train", cache_dir=tmp_path, report=lines.append)
    assert len(examples) == 6
    assert sorted((examples[i] for i in range(6)), key=lambda example: example.response) == [
        Example(f"instruction {i} é\n\ncontext {i} é\n", f"response {i} é") for i in range(6)
    ]
    assert len(lines) == 1
    assert lines[0].startswith(f"tiny_instructions: prepared 8 examples in {tmp_path}/tfds/tiny_instructions/1.0.0 (")
    again = open_tfds("tiny_instructions:1.0.0", split="train[:50%]", cache_dir=tmp_path, report=lines.append)
    assert len(again) == 3
    assert len(lines) == 1
    assert capfd.readouterr() == ("", "")


def test_a_data_set_that_tfds_keeps_elsewhere_is_read_from_there(tmp_path, monkeypatch):
    builder = TinyInstructions(data_dir=tmp_path / "default")
    with tfds_examples.quietly():
        builder.download_and_prepare(file_format="array_record")
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path / "default"))
    examples = open_tfds("tiny_instructions", split="train", cache_dir=tmp_path / "cache", report=pytest.fail)
    assert len(examples) == 6
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("split", ["test", "train[:5", "train[:0]", "train+test"])
def test_an_unknown_or_empty_split_names_those_there(tmp_path, split):
    with pytest.raises(InputError) as caught:
        open_tfds("tiny_instructions", split=split, cache_dir=tmp_path, report=lambda line: None)
    assert str(caught.value) == (
        f"The data set tiny_instructions has no split {split!r} with examples in it: there is 'train', 'validation', "
        "or a slice of them such as 'train[:90%]'."
    )


def test_unknown_keys_are_named(tmp_path):
    with pytest.raises(
        InputError, match=r"The data set tiny_questions has the keys 'answer', 'question', but an example"
    ):
        open_tfds("tiny_questions", split="train", cache_dir=tmp_path, report=lambda line: None)


def test_an_unknown_name_is_refused_with_the_nearest(tmp_path):
    message = (
        r"There is no data set 'databricks_doly' \(did you mean 'databricks_dolly'\?\): give the path of a JSONL file, "
        r"'python_stdlib', or a TFDS name\."
    )
    with pytest.raises(InputError, match=message):
        open_tfds("databricks_doly", split="train", cache_dir=tmp_path)
    with pytest.raises(InputError, match=r"TFDS cannot open the data set 'two words' \(ValueError: .+\)\."):
        open_tfds("two words", split="train", cache_dir=tmp_path)


def test_a_preparation_that_fails_is_told_in_one_line_and_leaves_nothing_that_looks_whole(tmp_path):
    message = (
        rf"TFDS could not prepare the data set tiny_fault in {tmp_path}/tfds \(RuntimeError: the server hung up.*\)\."
    )
    for _ in range(2):
        with pytest.raises(InputError, match=message):
            open_tfds("tiny_fault", split="train", cache_dir=tmp_path)
        assert not (tmp_path / "tfds" / "tiny_fault" / "1.0.0").exists()


def test_data_in_a_format_that_cannot_be_read_by_number_is_refused(tmp_path):
    open_tfds("tiny_instructions", split="train", cache_dir=tmp_path, report=lambda line: None)
    folder = tmp_path / "tfds" / "tiny_instructions" / "1.0.0"
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(InputError, match=rf"could not prepare .+ \({folder} holds another format than ArrayRecord\)\."):
        open_tfds("tiny_instructions", split="train", cache_dir=tmp_path)


def test_the_standard_library_is_prepared_as_a_data_set_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(
        functions,
        "standard_library_functions",
        lambda root: [Function(f"m{i}", f"f{i}", f"prompt {i}\n", f"def f{i}(): return 1") for i in range(200)],
    )
    examples = open_tfds("python_stdlib", split="train", cache_dir=tmp_path, report=lambda line: None)
    assert Example("prompt 0\n", "def f0(): return 1") in [examples[i] for i in range(len(examples))]


PREPARE = """
import sys, time
from pathlib import Path
from atkd_jax.data.python_stdlib import functions
from atkd_jax.data.tfds_examples import open_tfds

def slowly(root):
    for i in range(100):
        time.sleep(0.005)
        yield functions.Function(f"m{i}", f"f{i}", f"prompt {i}", f"def f{i}(): return 1")

functions.standard_library_functions = slowly
print(len(open_tfds("python_stdlib", split="train", cache_dir=Path(sys.argv[1]), report=lambda line: None)))
"""


def test_processes_may_prepare_the_same_set_at_the_same_time(tmp_path):
    runs = [
        subprocess.Popen([sys.executable, "-c", PREPARE, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    lengths = {run.communicate()[0].strip() for run in runs}
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert len(lengths) == 1
