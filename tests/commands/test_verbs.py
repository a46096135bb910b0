import dataclasses
import importlib
from pathlib import Path

import pytest

from atkd_jax.commands.command_line import Options, parse_options
from atkd_jax.commands.verbs import OF_MANY, VERBS, LocalOptions, parse_verb
from atkd_jax.errors import InputError


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_is_a_module_that_runs(name):
    assert callable(importlib.import_module(f"atkd_jax.commands.{name}").run)


@pytest.mark.parametrize("name", sorted(set(VERBS) - {"local"}))
def test_a_verb_needs_no_more_than_defaults(name):
    assert parse_verb(name, []) == VERBS[name].options()


@pytest.mark.parametrize("name", VERBS)
def test_every_option_is_explained(name, capsys):
    verb = VERBS[name]
    with pytest.raises(SystemExit):
        parse_verb(name, ["--help"])
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert verb.summary in out
    shared = {field.name for field in dataclasses.fields(Options)}
    inner = {"command", "overrides", "words"}
    own = [field for field in dataclasses.fields(verb.options) if field.name not in {*shared, *inner}]
    for field in own:
        assert f"--{field.name}" in out or f"[{field.name.upper()}]" in out


def test_fetch_takes_a_name_wherever_it_stands():
    verb = VERBS["fetch"]
    for words in (["org/model", "--seed", "1"], ["--seed", "1", "org/model"]):
        options = parse_options("fetch", verb.options, words, summary=verb.summary)
        assert (options.name, options.settings.seed) == ("org/model", 1)  # pyright: ignore[reportAttributeAccessIssue]  # of fetch


def test_local_keeps_the_words_of_the_verb_that_it_starts():
    words = ["train", "--training.steps", "3"]
    options = parse_verb("local", ["--processes", "4", "--devices_per_process=2", *words])
    assert options == LocalOptions(processes=4, devices_per_process=2, command=tuple(words))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], r"launch.py: local needs the verb that it shall start, train, evaluate or cache, but none came"),
        (["export"], r"launch.py: local needs the verb that it shall start, train, evaluate or cache, but export came"),
        (["--seed", "1", "train"], r"launch.py: local does not take --seed; the words of the verb that it starts come"),
        (["--processes", "0", "train"], r"command line: processes must be at least 1, but 0 came"),
        (["--processes", "x", "train"], r"command line: .*processes"),
        (["train", "--training.stps", "3"], r"unknown option --training.stps; the nearest is --training.steps"),
        (["train", "--processes", "3"], r"unknown option --processes"),
    ],
)
def test_what_is_wrong_with_local_is_told_before_anything_starts(words, sentence):
    with pytest.raises(InputError, match=sentence):
        parse_verb("local", words)


def test_a_study_keeps_the_keys_that_the_words_name_unchecked():
    options = parse_verb("study", ["a.yaml", "--seeds", "1", "2", "--objective.beta", "7"])
    assert (options.study, options.seeds, options.overrides) == (Path("a.yaml"), (1, 2), {"objective.beta": "7"})
    assert options.words == ("a.yaml", "--seeds", "1", "2", "--objective.beta", "7")
    with pytest.raises(InputError, match=r"study takes the study's own file, as `launch.py study a.yaml`"):
        parse_verb("study", ["--config", "a.yaml"])


@pytest.mark.parametrize("name", sorted(set(VERBS) - {"local", "study", "report", *OF_MANY}))
def test_verbs_of_one_process_refuse_to_be_one_of_many(name):
    with pytest.raises(InputError, match=rf"{name} is the work of one process, but distributed.num_processes is 2; tr"):
        parse_verb(name, ["--distributed.num_processes", "2"])
    assert parse_verb(name, ["--distributed.num_processes", "1"]).settings.distributed.num_processes == 1
