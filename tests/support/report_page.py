"""A parsed report page, and text that a page must escape."""

import base64
from html.parser import HTMLParser
from pathlib import Path

HOSTILE = "<script>alert('$x$')</script>&\"_"


class Page(HTMLParser):
    """The elements, the attributes that load something, and the text of a page without its scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._hidden = "", False
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._hidden = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)

    def loads(self) -> list[str]:
        names = ("src", "href", "xlink:href", "srcset", "data", "poster", "action")
        return [value or "" for _, attributes in self.elements for name, value in attributes.items() if name in names]

    def content(self, kind: str) -> list[bytes]:
        start = f"data:{kind};base64,"
        return [base64.b64decode(load.removeprefix(start)) for load in self.loads() if load.startswith(start)]
