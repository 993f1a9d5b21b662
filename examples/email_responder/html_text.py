"""The text of a mail that has it as HTML only."""

from __future__ import annotations

from html.parser import HTMLParser

_UNSEEN = frozenset({"head", "script", "style", "template", "title"})
_INLINE = frozenset(
    {"a", "abbr", "b", "code", "em", "font", "i", "img", "s", "small", "span", "strong", "sub", "sup", "u"}
)


def text_of(html: str) -> str:
    """What a reader sees of it, a line for each block; links and pictures are left out."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    lines = (" ".join(line.split()) for line in "".join(reader.pieces).split("\f"))
    return "\n".join(line for line in lines if line)


class _Reader(HTMLParser):
    """Gathers text, with a form feed between blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self._unseen = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        # The end of a head may be left out.
        self._unseen = 0 if tag == "body" else self._unseen + (tag in _UNSEEN)
        self._part(tag)

    def handle_endtag(self, tag: str) -> None:
        self._unseen = max(0, self._unseen - (tag in _UNSEEN))
        self._part(tag)

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.pieces.append(data.replace("\f", " "))

    def _part(self, tag: str) -> None:
        if tag not in _INLINE:
            self.pieces.append("\f")
