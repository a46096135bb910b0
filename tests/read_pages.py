"""A report's page, read back: by a parser of HTML, and by a browser where there is one."""

import base64
import re
import shutil
import struct
import subprocess
from html.parser import HTMLParser

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Read(HTMLParser):
    """A page's cells, row by row, its tags and its text."""

    def __init__(self, page):
        super().__init__()
        self.rows, self.tags, self.text = [], [], ""
        self._in_cell = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag):
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        self.text += data
        if self._in_cell:
            self.rows[-1][-1] += data


def addresses_in_pictures(page):
    """The addresses that stand in a page's pictures, beside the names of what SVG is made of."""
    pictures = re.findall(r"data:image/(?:svg\+xml|png);base64,([^\"]+)", page)
    assert pictures
    found = {address for each in pictures for address in re.findall(rb"https?:[^\s\"'<>]*", base64.b64decode(each))}
    return found - {b"http://www.w3.org/2000/svg", b"http://www.w3.org/1999/xlink"}


def browsed(page, directory, *, height):
    """What a browser makes of a page: the tags and texts that it shows, and the number of its pictures, all whole."""
    path, shot = directory / "page.html", directory / "page.png"
    path.write_text(page, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={directory / 'own'}"]

    def browse(*more):
        command = [BROWSER, *flags, *more, path.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)

    browse(f"--screenshot={shot}", f"--window-size=1280,{height}")
    assert struct.unpack(">II", shot.read_bytes()[16:24]) == (1280, height)
    dom = browse("--dump-dom", "--enable-logging=stderr").stdout
    drawn = re.findall(r"data:image/svg\+xml;base64,([^\"]+)", dom)
    for number, image in enumerate(drawn):  # As a page of its own each is an SVG without an error in it.
        assert base64.b64decode(image).rstrip().endswith(b"</svg>"), number
    photographed = re.findall(r"data:image/png;base64,([^\"]+)", dom)
    assert all(base64.b64decode(image).startswith(b"\x89PNG") for image in photographed)
    return dom, len(drawn) + len(photographed)
