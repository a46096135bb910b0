"""Every switch that a family's table reads is thrown by one of the models that are compared with transformers."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import transformers
from family_checks import FamilyChecks

from atkd_jax.interop.families.registry import FAMILIES

# Numbers, of which one value is as good as another.
SIZES = {"vocab_size", "width", "num_layers", "num_heads", "mlp_width", "norm_eps", "max_position", "rope_theta"}
# Switches that have one position in every model of a family, and why.
IMPLIED = {
    "head_dim": ({"opt", "gpt_neox", "gpt2"}, "is the width by the number of heads"),
    "num_kv_heads": ({"opt", "gpt_neox", "gpt2"}, "is the number of heads"),
    "rotary_dim": (
        {"llama", "mistral", "qwen2", "qwen3", "gemma2", "olmo2", "smollm3", "mixtral", "qwen3_moe"},
        "is read by the one function for all families, and transformers' model of these turns whole heads",
    ),
}


def checks_of_families():
    """The test classes of this folder by the name of their family, without collecting them a second time."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if "FamilyChecks" not in path.read_text(encoding="utf-8") or path == Path(__file__):
            continue
        spec = importlib.util.spec_from_file_location(f"cases_of_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for each in vars(module).values():
            if isinstance(each, type) and issubclass(each, FamilyChecks) and each is not FamilyChecks:
                found[each.family.name] = each
    return found


CHECKS = checks_of_families()


def raw_config(case):
    """config.json as transformers writes it."""
    return json.loads(getattr(transformers, case.config)(**case.settings).to_json_string(use_diff=False))


def switches_of(family, raw):
    """The fields of DecoderConfig that the table reads out of a config.json, whatever it holds."""
    read = {each.field: each.read(raw) for each in family.keys} | dict(family.constants)
    names = {each.field for each in family.keys}
    for each in family.fields:
        own = each.read(raw, read)
        read |= own
        names |= set(own)
    return names - set(family.constants) - SIZES


def test_every_family_has_its_checks():
    assert set(CHECKS) == {family.name for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_switch_is_thrown(family):
    raws = [raw_config(case) for case in CHECKS[family.name].cases.values()]
    configs = [family.read_config(raw) for raw in raws]
    values = {name: {getattr(config, name) for config in configs} for name in switches_of(family, raws[0])}
    never_thrown = {name for name, seen in values.items() if len(seen) < 2}
    assert never_thrown == {name for name, (families, _) in IMPLIED.items() if family.name in families}
