"""What a browser makes of a page: its elements and texts, and the page inside headless Chromium."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

HOSTILE = "</script><img src=x onerror=alert(1)>"
OVERRIDE = "\u202e" + HOSTILE  # U+202E turns the direction of what follows


class Page(html.parser.HTMLParser):
    """Elements, their attributes, and the text outside of code."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.code: dict[str, list[str]] = {"style": [], "script": []}
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag if tag in self.code else ""

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        (self.code[self.inside] if self.inside else self.texts).append(data)

    @property
    def text(self) -> str:
        """All text outside of code."""
        return "".join(self.texts)

    @property
    def names(self) -> list[str]:
        """The names of all elements."""
        return [tag for tag, _ in self.tags]

    @property
    def targets(self) -> list[str]:
        """Everything that the page points at."""
        keys = ("src", "href", "srcset", "data", "action")
        return [value for _, found in self.tags for key in keys if (value := found.get(key))]

    def assert_inert(self) -> None:
        """No element of a hostile text is one, and no attribute runs or styles anything."""
        assert not {"img", "iframe", "object", "embed", "link", "base"} & {*self.names}
        attributes = [key for _, found in self.tags for key in found]
        assert not [key for key in attributes if key.startswith("on") or key == "style"]

    def assert_policy(self, kinds: tuple[str, ...]) -> None:
        """The page's policy allows its own code of these kinds, by hash, and nothing else."""
        policy = next(
            found["content"] or ""
            for tag, found in self.tags
            if tag == "meta" and found.get("http-equiv") == "Content-Security-Policy"
        )
        rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
        allowed = {"default-src": "'none'", "base-uri": "'none'", "form-action": "'none'"}
        for kind in kinds:
            assert self.names.count(kind) == 1
            digest = hashlib.sha256("".join(self.code[kind]).encode()).digest()
            allowed[f"{kind}-src"] = f"'sha256-{base64.b64encode(digest).decode()}'"
        assert rules == allowed
        assert not [kind for kind in self.code if kind not in kinds and kind in self.names]


HARNESS = """<!doctype html><iframe id="page" src="index.html"></iframe><pre id="out"></pre><script>
const frame = document.getElementById("page"), found = {};
frame.style = "border:0;height:900px";
frame.onload = () => {
  const inner = frame.contentDocument, root = inner.documentElement;
  BEFORE
  for (const width of [320, 380, 1440]) {
    frame.style.width = width + "px";
    found[width] = root.scrollWidth - root.clientWidth;
  }
  AFTER
  document.getElementById("out").textContent = "found " + JSON.stringify(found) + " end";
};
</script>"""


def look(folder: Path, before: str = "", after: str = "") -> tuple[dict[str, Any], str]:
    """What Chromium finds on ``folder/index.html``, and what it logs.

    The overflow in pixels is found by width; scripts may add to `found` before and after.
    """
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("needs the program `chromium` on PATH")
    page = HARNESS.replace("BEFORE", before).replace("AFTER", after)
    (folder / "harness.html").write_text(page, "utf-8")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
    quiet = "--disable-background-networking --disable-component-update --enable-logging=stderr"
    done = subprocess.run(
        [
            *(browser, *flags.split(), *quiet.split(), "--allow-file-access-from-files"),
            *("--dump-dom", f"--user-data-dir={folder / 'profile'}"),
            (folder / "harness.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r"found (\{.*?\}) end</pre>", done.stdout)
    assert found is not None, done.stderr[-2000:]
    return json.loads(found[1]), done.stderr
