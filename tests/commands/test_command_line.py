import dataclasses
from pathlib import Path

import pytest

from atkd_jax import config_fields
from atkd_jax.commands.command_line import Options, parse_options
from atkd_jax.config import Config
from atkd_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Own(Options):
    """A verb's."""

    dry_run: bool = False
    """Start nothing."""
    prompt: str = ""
    """A text."""


def parse(*words):
    return parse_options("train", Own, words, summary="Train.")


def test_no_words_are_the_defaults():
    assert parse() == Own(config=None, settings=Config())


def test_a_verb_has_options_of_its_own():
    options = parse("--dry-run", "--prompt", "two words", "--seed", "4")
    assert (options.dry_run, options.prompt, options.settings.seed) == (True, "two words", 4)


@pytest.mark.parametrize(
    ("words", "dotted", "value"),
    [
        (["--training.steps", "7"], "training.steps", 7),
        (["--training.steps=7"], "training.steps", 7),
        (["--training.batch_size", "4"], "training.batch_size", 4),
        (["--training.batch-size", "4"], "training.batch_size", 4),
        (["--optimizer.learning_rate", "1e-4"], "optimizer.learning_rate", 1e-4),
        (["--optimizer.clip-norm", "none"], "optimizer.clip_norm", None),
        (["--optimizer.clip-norm", "None"], "optimizer.clip_norm", None),
        (["--data.packing", "false"], "data.packing", False),
        (["--run_dir", "/tmp/a"], "run_dir", Path("/tmp/a")),
        (["--objective.direction", "reverse"], "objective.direction", "reverse"),
        (["--teacher.model", "none"], "teacher.model", "none"),
        (["--student.keep-layers", "0", "4", "9"], "student.keep_layers", (0, 4, 9)),
        (["--student.keep_layers", "3", "--seed", "1"], "student.keep_layers", (3,)),
    ],
)
def test_any_key_is_set_by_its_dotted_name(words, dotted, value):
    found = parse(*words).settings
    for part in dotted.split("."):
        found = getattr(found, part)
    assert found == value


def test_an_empty_list_and_a_start_elsewhere():
    settings = parse("--student.keep-layers", "--student.init", "directory", "--student.directory", "~/m").settings
    assert settings.student.keep_layers == ()
    assert settings.student.directory == Path("~/m").expanduser()


def test_words_win_over_the_file(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("training:\n  steps: 5\n  batch_size: 2\n")
    options = parse("--training.steps", "6", "--config", str(path))
    assert (options.config, options.settings.training.steps, options.settings.training.batch_size) == (path, 6, 2)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--training.stps", "5"], "unknown option --training.stps; the nearest is --training.steps."),
        (["--batch_size=5"], "unknown option --batch_size=5; the nearest is --training.batch_size."),
        (["--dry-rum"], "unknown option --dry-rum; the nearest is --dry_run."),
        (["--xyzzy"], "unknown option --xyzzy; `launch.py train --help` lists the options."),
        (["what"], "nothing takes the word 'what'; `launch.py train --help` shows what train takes."),
        (["--training.steps", "5", "6"], "nothing takes the word '6'; "),
        (["--training.steps", "x"], "training.steps must be a whole number of at least 1, but 'x' came."),
        (["--training.steps", "-5"], "training.steps must be a whole number of at least 1, but '-5' came."),
        (["--training.steps", "none"], "training.steps must be a whole number of at least 1, but 'none' came."),
        (["--student.keep_layers", "2", "1"], "student.keep_layers must be layer numbers from 0, ascending, each once"),
        (["--seed"], "--seed needs a value."),
        (["--config"], "--config needs a value."),
    ],
)
def test_what_is_wrong_is_one_sentence(words, sentence, capsys):
    with pytest.raises(InputError) as raised:
        parse(*words)
    assert str(raised.value).startswith(f"command line: {sentence}")
    assert "\n" not in str(raised.value)
    assert capsys.readouterr() == ("", "")


def test_help_shows_every_key_with_description_and_default(capsys):
    with pytest.raises(SystemExit) as raised:
        parse("--help")
    assert raised.value.code == 0
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    # A long list of choices is broken where no space stood.
    together = out.replace(" ", "")
    for name, field in config_fields.dotted_fields(Config):
        if config_fields.group_of(field) is None:
            assert f"--{name}{config_fields.metavar(field)}".replace(" ", "") in together
            assert " ".join(str(field.description).split()) in out
    assert "(default: smollm2-135m-instruct)" in out
    assert "(default: none)" in out
    assert "--dry_run" in out
