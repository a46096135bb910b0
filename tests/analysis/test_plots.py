import builtins

import numpy as np
import pytest
from matplotlib import image

from atkd_jax.analysis.plots import draw_densities, draw_measure
from atkd_jax.analysis.results import Result
from atkd_jax.analysis.summary import summarize
from atkd_jax.errors import InputError


@pytest.fixture
def summaries(cells_of):
    study, cells = cells_of(cells={"kd": {}, "atkd": {}}, grid={"objective.beta": [0.1, 0.5]}, seeds=[0, 1])
    return summarize([Result(cell, {"perplexity": 10.0 + place}, {}, 1.0) for place, cell in enumerate(cells)], study)


def is_picture(path):
    pixels = image.imread(path)
    return pixels.shape[0] > 300 and len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 10


def test_a_measure_is_drawn_along_an_axis(summaries, tmp_path):
    draw_measure(summaries, x="objective.beta", measure="perplexity", path=tmp_path / "a.png")
    assert is_picture(tmp_path / "a.png")


def test_what_is_not_there_is_said(summaries, tmp_path):
    with pytest.raises(InputError, match=r"no cell that has finished is on the axis 'x' with the measure 'rouge_l'"):
        draw_measure(summaries, x="x", measure="rouge_l", path=tmp_path / "a.png")


def test_densities_are_drawn(tmp_path):
    places = np.linspace(0, 1, 20)
    draw_densities(
        {"one": (places, 2 * places), "other": (places, 1 + 0 * places)}, title="t", x="u", path=tmp_path / "d.png"
    )
    assert is_picture(tmp_path / "d.png")


def test_without_matplotlib_it_says_what_to_install(monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install 'atkd-jax\[plots\]'"):
        draw_densities({}, title="", x="", path=tmp_path / "d.png")
