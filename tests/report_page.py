"""A report as a reader finds it, shared by the tests that read one."""

import html.parser

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(html.parser.HTMLParser):
    """Tables by their titles as rows of (texts, full-precision numbers), and everything that could load a resource."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.rows: list[list[dict]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append({"text": "", "number": None})
        if tag == "data":
            self.rows[-1][-1]["number"] = float(dict(attrs)["value"])

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if self.open and any(tag in self.open for tag in ("td", "th")):
            self.rows[-1][-1]["text"] += data

    def row(self, start: str) -> list[dict]:
        return next(row for row in self.rows if row[0]["text"].startswith(start))

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())
