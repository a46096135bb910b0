"""Finds documented functions in Python source and cuts each into a prompt and a response."""

from __future__ import annotations

import ast
import hashlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef

# Folders of the standard library that hold no library code: test suites with their fixtures, and installed packages.
EXCLUDED_FOLDERS = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})
FEWEST_DOCSTRING_WORDS = 3


@dataclass(frozen=True)
class Function:
    """One function of a module: what is asked for, and its source without the docstring."""

    module: str
    qualified_name: str
    prompt: str
    response: str


def standard_library_functions(root: Path) -> Iterator[Function]:
    """Yields the documented functions below `root`, file by file in the order of their names, each response once.

    Left out are test suites and installed packages (`EXCLUDED_FOLDERS`), files that do not parse, functions without
    code of their own (`pass`, `...`, only `raise NotImplementedError`), docstrings of fewer than three words, and
    every function whose source repeats an earlier one's, so that no response stands in two splits.

    Args:
        root: the folder of the standard library, `sysconfig.get_path("stdlib")`.
    """
    seen: set[str] = set()
    for path in _python_files(root):
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        for function in functions_of_file(path, module):
            if function.response not in seen:
                seen.add(function.response)
                yield function


def functions_of_file(path: Path, module: str) -> Iterator[Function]:
    """Yields the documented functions of one file from top to bottom, methods among them; none if it does not parse."""
    try:
        source = path.read_text(encoding="utf-8")
        tree = _parse(source)
    except (SyntaxError, ValueError):
        return
    lines = source.split("\n")
    for node, owner in _functions(tree, owner=""):
        docstring = ast.get_docstring(node)
        if docstring is None or len(docstring.split()) < FEWEST_DOCSTRING_WORDS or not _has_code(node):
            continue
        response = _source_without_docstring(node, lines)
        if response is not None:
            yield Function(module, f"{owner}.{node.name}".lstrip("."), _prompt(node, owner, docstring), response)


def split_of_module(module: str) -> str:
    """Returns the split, about 90/5/5 of the functions, that all functions of a module belong to, on every machine."""
    share = int.from_bytes(hashlib.sha256(f"split/{module}".encode()).digest()[:4], "big") / 2**32
    return "train" if share < 0.9 else "validation" if share < 0.95 else "test"


def _python_files(root: Path) -> Iterator[Path]:
    for folder, subfolders, files in os.walk(root):
        # In place, so that os.walk does not enter the others; sorted, so that the order is every machine's.
        subfolders[:] = sorted(set(subfolders) - EXCLUDED_FOLDERS)
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(".py"))


def _parse(source: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an invalid escape in somebody else's file
        return ast.parse(source)


def _functions(node: ast.AST, owner: str) -> Iterator[tuple[FunctionNode, str]]:
    """Functions below a node with the dotted name of the class they are methods of; functions in functions, too."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, FunctionNode):
            yield child, owner
            yield from _functions(child, "")
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{owner}.{child.name}".lstrip("."))
        elif isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):  # expressions hold no functions
            yield from _functions(child, owner)


def _has_code(node: FunctionNode) -> bool:
    """Whether anything but `pass`, `...`, bare strings and `raise NotImplementedError` follows the docstring."""
    for statement in node.body[1:]:
        is_bare = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        is_abstract = isinstance(statement, ast.Raise) and "NotImplementedError" in ast.dump(statement)
        if not (is_bare or is_abstract or isinstance(statement, ast.Pass)):
            return True
    return False


def _prompt(node: FunctionNode, owner: str, docstring: str) -> str:
    keyword = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    signature = f"{keyword} {node.name}({ast.unparse(node.args)}){returns}"
    kind = f"method `{signature}` of the class `{owner}`" if owner else f"function `{signature}`"
    return f"Write the Python {kind} from its docstring. Answer with code only.\n\n{docstring}\n"


def _source_without_docstring(node: FunctionNode, lines: list[str]) -> str | None:
    """The function as it stands in the file, from `def` on, moved to the left margin; None where that is not safe."""
    docstring = node.body[0]
    kept = [
        number for number in range(node.lineno, _end(node) + 1) if not docstring.lineno <= number <= _end(docstring)
    ]
    inside_strings = {
        number
        for part in ast.walk(node)
        if isinstance(part, ast.Constant | ast.JoinedStr)
        for number in range(part.lineno + 1, _end(part) + 1)
    }
    margin = " " * node.col_offset
    # The continuation of a multi-line string is content: moving it would change what the function does.
    cut = [lines[n - 1] if n in inside_strings else lines[n - 1].removeprefix(margin) for n in kept]
    response = "\n".join(cut)
    try:
        (again,) = _parse(response).body
    except (SyntaxError, ValueError):  # say, a statement shares the docstring's line
        return None
    del node.body[0]
    node.decorator_list = []
    return response if ast.dump(again) == ast.dump(node) else None


def _end(node: ast.stmt | ast.expr) -> int:
    assert node.end_lineno is not None  # always there in a tree that was parsed from text
    return node.end_lineno
