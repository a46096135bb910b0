import ast
import inspect
import textwrap
from pathlib import Path

import pytest

from atkd_jax.data.python_stdlib.functions import functions_of_file, split_of_module, standard_library_functions

SOURCE = '''
import abc


def add(first, second=1, *, third: int = 2) -> int:
    """Returns the sum of all three.

    And nothing else.
    """
    # a comment
    return first + second + third


class Outer:
    @property
    def size(self):
        "The size of the thing."
        return 1

    class Inner:
        async def text(self):
            """Returns a text of two lines."""
            if self:
                return """one
        two"""

    def no_docstring(self):
        return 2

    def short(self):
        """Too short."""
        return 2

    def abstract(self):
        """Must be given by a subclass."""
        raise NotImplementedError("please")

    def empty(self):
        """Does nothing at all here."""
        pass

    def shared_line(self):
        """A statement shares the line."""; x = 1
        return x


def outer():
    """Holds another function in it."""
    def inner(a):
        """Is the function in it."""
        return a
    return inner
'''


@pytest.fixture
def found(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(SOURCE)
    return {function.qualified_name: function for function in functions_of_file(path, "module")}


def test_only_documented_functions_with_code_are_taken(found):
    assert list(found) == ["add", "Outer.size", "Outer.Inner.text", "outer", "inner"]


def test_the_prompt_holds_signature_and_docstring(found):
    assert found["add"].prompt == (
        "Write the Python function `def add(first, second=1, *, third: int=2) -> int` from its docstring. Answer with "
        "code only.\n\nReturns the sum of all three.\n\nAnd nothing else.\n"
    )
    assert found["Outer.Inner.text"].prompt.startswith(
        "Write the Python method `async def text(self)` of the class `Outer.Inner` from its docstring."
    )


def test_the_response_is_the_source_without_docstring_and_decorators(found):
    assert found["add"].response == (
        "def add(first, second=1, *, third: int = 2) -> int:\n    # a comment\n    return first + second + third"
    )
    assert found["Outer.size"].response == "def size(self):\n    return 1"
    assert found["outer"].response == (
        'def outer():\n    def inner(a):\n        """Is the function in it."""\n        return a\n    return inner'
    )


def test_a_string_over_several_lines_keeps_its_content(found):
    assert found["Outer.Inner.text"].response == (
        'async def text(self):\n    if self:\n        return """one\n        two"""'
    )


def test_files_that_cannot_be_read_as_python_are_left_out(tmp_path):
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "latin.py").write_bytes(b"# \xe9\n")
    (tmp_path / "null.py").write_bytes(b"x = 1\0")
    assert list(standard_library_functions(tmp_path)) == []


def test_test_suites_and_installed_packages_are_not_entered_and_copies_not_repeated(tmp_path):
    code = 'def f(a):\n    """Returns what it got."""\n    return a\n'
    for folder in ("b", "a/c", "test", "b/tests", "site-packages/p", "idlelib/idle_test"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "__init__.py").write_text(code)
    found = list(standard_library_functions(tmp_path))
    assert [(function.module, function.qualified_name) for function in found] == [("a.c", "f")]


def test_the_splits_are_stable_and_about_90_to_5_to_5():
    modules = [f"package{number}.module" for number in range(4000)]
    splits = [split_of_module(module) for module in modules]
    assert 0.88 < splits.count("train") / 4000 < 0.92
    assert 0.04 < splits.count("validation") / 4000 < 0.06
    assert {name: split_of_module(name) for name in ("json.decoder", "threading", "unittest.case")} == {
        "json.decoder": "train",
        "threading": "validation",
        "unittest.case": "test",
    }


def test_a_function_is_the_one_that_the_interpreter_finds():
    found = {function.qualified_name: function for function in functions_of_file(Path(textwrap.__file__), "textwrap")}
    # An oracle of another make: the source as `inspect` gives it, with the docstring taken out of its tree.
    whole = ast.parse(inspect.getsource(textwrap.dedent)).body[0]
    del whole.body[0]
    assert ast.dump(ast.parse(found["dedent"].response).body[0]) == ast.dump(whole)
    assert inspect.cleandoc(textwrap.dedent.__doc__) in found["dedent"].prompt
