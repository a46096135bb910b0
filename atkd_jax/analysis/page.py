"""One self-contained HTML page of tables, pictures and texts, in which every text is escaped."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

_TEMPLATE = Path(__file__).with_name("page.html.jinja")


@dataclass(frozen=True)
class Table:
    """Rows under headings; the first cell of a row names it, and so many columns hold words and not numbers."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    word_columns: int = 1
    kind: str = "table"


@dataclass(frozen=True)
class Picture:
    """An SVG text or a PNG file's bytes."""

    image: str | bytes
    description: str
    kind: str = "picture"

    @property
    def address(self) -> str:
        """The picture as an address that holds all of it."""
        is_svg = isinstance(self.image, str)
        content = self.image.encode() if isinstance(self.image, str) else self.image
        return f"data:image/{'svg+xml' if is_svg else 'png'};base64,{base64.b64encode(content).decode()}"


@dataclass(frozen=True)
class Pictures:
    """Pictures that stand beside each other where there is room."""

    pictures: Sequence[Picture]
    kind: str = "pictures"


@dataclass(frozen=True)
class Fold:
    """A long text under a line that opens it."""

    title: str
    text: str
    kind: str = "fold"


@dataclass(frozen=True)
class Side:
    """Texts side by side: pairs of a title and a text."""

    texts: Sequence[tuple[str, str]]
    kind: str = "side"


@dataclass(frozen=True)
class Note:
    """A sentence."""

    text: str
    kind: str = "note"


Block = Table | Picture | Pictures | Fold | Side | Note


@dataclass(frozen=True)
class Section:
    """Blocks under a heading."""

    title: str
    blocks: Sequence[Block]


def render_page(title: str, sections: Sequence[Section], *, subtitle: str = "") -> str:
    """Returns the page as HTML.

    It loads nothing: its style stands in it, pictures are data, and a policy in its head forbids the browser the rest.

    Args:
        title: Its heading.
        sections: What it holds; those without blocks are left out.
        subtitle: A line below the heading.

    Example:
        >>> page = render_page("A run", [Section("Facts", [Table(["", "loss"], [["<b>", "1.5"]])])])
        >>> "<td>&lt;b&gt;</td>" in page or "<th scope=\\"row\\">&lt;b&gt;</th>" in page
        True
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(title=title, subtitle=subtitle, sections=[own for own in sections if own.blocks])
