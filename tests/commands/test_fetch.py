import pytest

from atkd_jax.commands.main import main


@pytest.mark.parametrize("by_name", [True, False])
def test_it_prints_the_directory(by_name, tiny_teacher_directory, capsys):
    name = str(tiny_teacher_directory)
    assert main(["fetch", name] if by_name else ["fetch", "--teacher.model", name]) == 0
    assert capsys.readouterr().out == f"{name}\n"


def test_an_unknown_model_is_one_sentence(tmp_path, capsys):
    assert main(["fetch", "no such model", "--cache_dir", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "no such model" in err
    assert err.count("\n") == 1
