"""A report as a reader finds it, shared by the tests that read one."""

import html
import html.parser
import pathlib
import shutil
import subprocess

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# The document of the frame takes the place of the one around it, which is what the browser prints.
LIFT = """
const frame = document.querySelector("iframe");
frame.onload = () => { document.documentElement.innerHTML = frame.contentDocument.documentElement.innerHTML; };
"""
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


def in_browser(page: pathlib.Path, script: str, profile: pathlib.Path, *, width: int) -> tuple[Page, list[str]]:
    """A copy of the page after `script` ran at its end, and what the console said; skips without a browser.

    The page is shown in a frame of `width` pixels: no window of a browser is as narrow as a phone.
    """
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    copy = page.with_name("with-script.html")
    text = page.read_text(encoding="utf-8")
    text = html.escape(text.replace("</body>", f"<script>{script}</script></body>"))
    frame = f'<iframe style="border: 0; width: {width}px; height: 800px" srcdoc="{text}"></iframe>'
    around = (
        f'<!doctype html><html><head><link rel="icon" href="data:,"></head><body>{frame}<script>{LIFT}</script></body>'
    )
    copy.write_text(f"{around}</html>", encoding="utf-8")
    offline = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")
    command = [program, "--headless=new", "--no-sandbox", "--disable-gpu", *offline, f"--user-data-dir={profile}",
               "--enable-logging=stderr", "--virtual-time-budget=4000", "--dump-dom", copy.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return Page(done.stdout), [line for line in done.stderr.splitlines() if "CONSOLE" in line]
