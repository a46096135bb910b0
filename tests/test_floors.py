"""The rules of the house, read off the source: imports point down, files stay short, tests mirror files."""

import ast
import functools
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "atkd_jax"
SOURCES = sorted(PACKAGE.rglob("*.py"))
ALL_FILES = [ROOT / "launch.py", *SOURCES] + [
    path for folder in ("tests", "examples", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))
]

FLOORS = [
    {"errors", "environment"},
    {"losses", "data", "config", "sharding"},
    {"objectives", "models"},
    {"generation", "interop"},
    {"teachers"},
    {"evaluation", "training"},
    {"analysis"},
    {"commands"},
    {"launch"},
]
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def name_of(path):
    return str(path.relative_to(ROOT))


def room_of_module(dotted):
    """The room of a module of the package; config_file and config_fields belong to config."""
    first = dotted.split(".")[1]
    return "config" if first.startswith("config") else first


def room_of(path):
    return "launch" if path.parent == ROOT else room_of_module(".".join(path.relative_to(ROOT).with_suffix("").parts))


def imported_modules(tree, path):
    """Every module that a file imports, at its top or within a function, as dotted names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                package = path.relative_to(ROOT).parts[: -node.level]
                module = ".".join([*package, *([node.module] if node.module else [])])
            if module != "atkd_jax":
                yield module
                continue
            # What `from atkd_jax import losses` names is a room, and `__version__` is not.
            names = [alias.name for alias in node.names]
            yield from (f"atkd_jax.{name}" for name in names if not name.startswith("__"))


def breaches(tree, path):
    """The rooms that a file imports from and must not."""
    own = room_of(path)
    rooms = {room_of_module(name) for name in imported_modules(tree, path) if name.startswith("atkd_jax.")}
    return sorted(room for room in rooms - {own} if room not in FLOOR_OF or FLOOR_OF[room] >= FLOOR_OF[own])


@functools.cache
def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@pytest.mark.parametrize("path", [ROOT / "launch.py", *SOURCES], ids=name_of)
def test_imports_point_down(path):
    if path == PACKAGE / "__init__.py":
        assert not list(imported_modules(parsed(path), path))
        return
    assert room_of(path) in FLOOR_OF, "a new room needs a floor"
    assert not breaches(parsed(path), path)


@pytest.mark.parametrize(
    ("source", "forbidden"),
    [
        ("from atkd_jax import training", ["training"]),
        ("import atkd_jax.evaluation.report", ["evaluation"]),
        ("def f():\n    from atkd_jax.commands.main import main", ["commands"]),
        ("from ..teachers import live", ["teachers"]),
        ("from atkd_jax.interop import load_model\nfrom atkd_jax.errors import InputError", ["interop"]),
        ("from .losses import forward_kl", []),
        ("from atkd_jax.config_file import load_config", []),
    ],
)
def test_the_floor_check_sees_every_form_of_import(source, forbidden):
    assert breaches(ast.parse(source), PACKAGE / "generation" / "sampling.py") == forbidden


@pytest.mark.parametrize("path", sorted((PACKAGE / "losses").rglob("*.py")), ids=name_of)
def test_losses_import_jax_and_nothing_else(path):
    allowed = {"jax", *sys.stdlib_module_names}
    names = set(imported_modules(parsed(path), path))
    assert not {name for name in names if name.split(".")[0] not in allowed and not name.startswith("atkd_jax.losses")}


@pytest.mark.parametrize("path", [path for path in SOURCES if room_of(path) != "sharding"], ids=name_of)
def test_partition_specs_stand_in_sharding_alone(path):
    for node in ast.walk(parsed(path)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
        names += [node.attr] if isinstance(node, ast.Attribute) else []
        assert "PartitionSpec" not in names


@pytest.mark.parametrize("path", ALL_FILES, ids=name_of)
def test_a_file_has_at_most_400_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_function_has_at_most_60_lines(path):
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            # A docstring is as long as it needs to be.
            is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            docstring_lines = (first.end_lineno or 0) - first.lineno + 1 if is_docstring else 0
            assert (node.end_lineno or 0) - node.lineno + 1 - docstring_lines <= 60, node.name


@pytest.mark.parametrize("path", ALL_FILES, ids=name_of)
def test_a_file_is_named_for_what_it_holds(path):
    assert not {"utils", "helpers", "common", "base", "misc"} & set(path.relative_to(ROOT).with_suffix("").parts)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_module_has_its_test(path):
    if path.name == "__init__.py" or len(path.read_text(encoding="utf-8").splitlines()) < 40:
        return
    mirror = ROOT / "tests" / path.relative_to(PACKAGE).with_name(f"test_{path.name}")
    assert mirror.exists(), f"{name_of(mirror)} is missing"
