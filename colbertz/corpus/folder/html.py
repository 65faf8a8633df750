"""HTML as text: the words that a reader sees, each on the line of the file on which it stands, under their headings."""

from html.parser import HTMLParser

from colbertz.corpus.folder.markup import headed
from colbertz.corpus.folder.sections import Text

_INVISIBLE = frozenset(["script", "style", "template", "svg", "noscript", "nav", "head"])
# What documentation generators put into headings as a link to them.
_PERMALINKS = ("#", "¶", "\uf0c1")
# Words on both sides of these belong together; other elements separate them.
_INLINE = frozenset(
    "a abbr b bdi bdo cite code em font i kbd mark q s samp small span strong sub sup tt u var wbr".split()
)


class _Extractor(HTMLParser):
    """Collects the visible text of each line, and the headings with the line on which they begin."""

    def __init__(self, num_lines: int):
        super().__init__(convert_charrefs=True)
        self.lines: list[list[str]] = [[] for _ in range(num_lines)]
        self.headings: list[tuple[int, int, str]] = []
        self.preformatted: set[int] = set()
        self._invisible: list[str] = []
        self._pre = 0
        self._heading: tuple[int, int, list[str]] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._invisible:
            if tag == self._invisible[-1]:
                self._invisible.append(tag)
            return
        if tag in _INVISIBLE:
            self._invisible.append(tag)
        elif tag in ("h1", "h2", "h3", "h4", "h5", "h6"):
            self._close_heading()
            self._heading = (self._line(), int(tag[1]), [])
        self._pre += tag == "pre"
        self._separate(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._invisible:
            if tag == self._invisible[-1]:
                self._invisible.pop()
            return
        if self._heading is not None and tag == f"h{self._heading[1]}":
            self._close_heading()
        if tag == "pre":
            self._pre = max(0, self._pre - 1)
        self._separate(tag)

    def handle_data(self, data: str) -> None:
        if self._invisible or (self._heading is not None and data.strip() in _PERMALINKS):
            return
        if self._heading is not None:
            self._heading[2].append(data)
        first = self._line()
        for i, part in enumerate(data.split("\n")):
            if part and first + i < len(self.lines):
                self.lines[first + i].append(part)
                if self._pre:
                    self.preformatted.add(first + i)

    def close(self) -> None:
        super().close()
        self._close_heading()

    def _line(self) -> int:
        return self.getpos()[0] - 1

    def _separate(self, tag: str) -> None:
        if tag not in _INLINE and self._line() < len(self.lines) and self.lines[self._line()]:
            self.lines[self._line()].append(" ")

    def _close_heading(self) -> None:
        if self._heading is not None:
            line, level, parts = self._heading
            text = " ".join("".join(parts).split())
            if text:
                self.headings.append((line, level, text))
            self._heading = None


def html(lines: list[str]) -> Text:
    """The visible text of a page, with as many lines as the file has."""
    extractor = _Extractor(len(lines))
    extractor.feed("\n".join(lines))
    extractor.close()
    text = ["".join(parts) for parts in extractor.lines]
    # Spaces say something in program code only; elsewhere they are between the tags.
    text = [t.rstrip() if i in extractor.preformatted else " ".join(t.split()) for i, t in enumerate(text)]
    return Text(text, headed(extractor.headings, len(text)), " > ")
