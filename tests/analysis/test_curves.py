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


@pytest.mark.parametrize(
    ("values", "is_logarithmic"),
    [
        ([0.0, 1e-5], False),
        ([123_450.0, 123_461.0], False),
        ([-2.75e-7, 1e9], False),
        ([2.0, 2.0], False),
        ([3.0, 4e5], True),
        ([55.0, 57.0], True),
        ([1e-9, 1e-3], True),
    ],
)
def test_every_letter_is_within_the_picture(values, is_logarithmic):
    svg = draw_curves({"a": ([0, 1], values)}, title="g", x="g", is_logarithmic=is_logarithmic)
    width, height = (float(size) for size in re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups())
    # Where each text begins, at its lower left corner.
    places = [tuple(map(float, place)) for place in re.findall(r'"translate\(([-\d.]+) ([-\d.]+)\) scale', svg)]
    assert len(places) > 6
    for x, y in places:
        assert 0 <= x < width - 4
        assert 8 < y < height - 2  # Letters are 8 points high, and that of the title goes below its line.


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
