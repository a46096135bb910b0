import dataclasses
import importlib

import pytest

from atkd_jax.commands.command_line import Options, parse_options
from atkd_jax.commands.verbs import VERBS


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_is_a_module_that_runs(name):
    assert callable(importlib.import_module(f"atkd_jax.commands.{name}").run)


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_needs_no_more_than_defaults(name):
    verb = VERBS[name]
    assert parse_options(name, verb.options, [], summary=verb.summary) == verb.options()


@pytest.mark.parametrize("name", VERBS)
def test_every_option_is_explained(name, capsys):
    verb = VERBS[name]
    with pytest.raises(SystemExit):
        parse_options(name, verb.options, ["--help"], summary=verb.summary)
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert verb.summary in out
    shared = {field.name for field in dataclasses.fields(Options)}
    own = [field for field in dataclasses.fields(verb.options) if field.name not in shared]
    for field in own:
        assert f"--{field.name}" in out or f"[{field.name.upper()}]" in out


def test_fetch_takes_a_name_wherever_it_stands():
    verb = VERBS["fetch"]
    for words in (["org/model", "--seed", "1"], ["--seed", "1", "org/model"]):
        options = parse_options("fetch", verb.options, words, summary=verb.summary)
        assert (options.name, options.settings.seed) == ("org/model", 1)  # pyright: ignore[reportAttributeAccessIssue]  # of fetch
