import math
import re
import sys
from xml.etree import ElementTree

import pytest

from atkd_jax.analysis.curves import draw_curves
from atkd_jax.errors import InputError

SVG = "{http://www.w3.org/2000/svg}"


def test_a_curve_goes_through_its_points():
    lines = {"a": ([0, 1, 2], [0.0, 1.0, 0.5]), "b": ([0, 1, 2], [0.5, None, math.inf])}
    tree = ElementTree.fromstring(draw_curves(lines, title="loss", x="step"))
    groups = [group for group in tree.iter(f"{SVG}g") if group.get("id", "").startswith("line2d")]
    paths = [path.get("d") for group in groups for path in group.findall(f"{SVG}path")]
    drawn = next(path for path in paths if path.count("L") == 2)
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", drawn)]
    points = list(zip(numbers[::2], numbers[1::2], strict=True))
    (x0, y0), (x1, y1), (x2, y2) = points
    # Evenly spaced, up and half as far down again; up is a smaller y in SVG.
    assert x1 - x0 == pytest.approx(x2 - x1, abs=1e-3)
    assert y0 - y1 == pytest.approx(2 * (y2 - y1), abs=1e-3)
    assert y0 > y1


def test_names_are_taken_as_they_are_and_pictures_can_be_repeated():
    lines = {"_run $x^2$": ([1], [1.0]), "<b>": ([1], [2.0])}
    svg = draw_curves(lines, title="$\\frac", x="s_t", is_logarithmic=True)
    assert svg == draw_curves(lines, title="$\\frac", x="s_t", is_logarithmic=True)
    ElementTree.fromstring(svg)


def test_no_address_stands_in_a_picture_but_those_of_its_names():
    svg = draw_curves({"a": ([1, 2], [1.0, 2.0])}, title="loss", x="step")
    assert set(re.findall(r"https?:[^\s\"<]*", svg)) == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "<!DOCTYPE" not in svg
    assert "<metadata" not in svg


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match="pip install 'atkd-jax"):
        draw_curves({"a": ([1], [1.0])}, title="", x="")
