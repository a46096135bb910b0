from html.parser import HTMLParser

import pytest

from atkd_jax.analysis.page import Fold, Note, Picture, Pictures, Section, Side, Table, render_page

HOSTILE = "<script>alert('x')</script>\"onload=\"y & <img src=https://example.org/a>"


class Read(HTMLParser):
    """The tags with their attributes, and the text, as a browser would take them."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def page(text=HOSTILE):
    blocks = [
        Table([text, text], [[text, text]], caption=text),
        Picture("<svg xmlns='http://www.w3.org/2000/svg'/>", text),
        Pictures([Picture(b"\x89PNG", text)]),
        Fold(text, text),
        Side([(text, text)]),
        Note(text),
    ]
    return render_page(text, [Section(text, blocks), Section("empty", [])], subtitle=text)


def test_every_text_is_escaped_wherever_it_stands():
    read = Read(page())
    assert not {"script", "iframe", "link", "object"} & {tag for tag, _ in read.tags}
    assert not any(name.startswith("on") for _, attrs in read.tags for name in attrs)
    # Title and heading, subtitle, link, section; caption, two headings, two cells; fold, side, note.
    assert read.text.count(HOSTILE) == 15
    assert [attrs["alt"] for tag, attrs in read.tags if tag == "img"] == [HOSTILE] * 2


def test_nothing_is_loaded_from_anywhere():
    read = Read(page())
    addresses = [attrs[name] for _, attrs in read.tags for name in ("src", "href", "action", "data") if name in attrs]
    assert all(address.startswith(("data:image/", "#section-")) for address in addresses)
    assert "url(" not in page("plain")
    assert "://" not in page("plain")
    (policy,) = [attrs["content"] for tag, attrs in read.tags if attrs.get("http-equiv")]
    assert policy.startswith("default-src 'none'")


def test_sections_without_blocks_are_left_out_and_the_others_are_linked():
    read = Read(page("plain"))
    assert "empty" not in read.text
    ids = [attrs["id"] for tag, attrs in read.tags if tag == "section"]
    assert [f"#{own}" for own in ids] == [attrs["href"] for tag, attrs in read.tags if tag == "a"] == ["#section-1"]


@pytest.mark.parametrize(("image", "kind"), [("<svg/>", "svg+xml"), (b"x", "png")])
def test_pictures_are_data(image, kind):
    assert Picture(image, "").address.startswith(f"data:image/{kind};base64,")
