"""Texts of strangers in LaTeX: as text, in one line, whatever is in them."""

from __future__ import annotations

import re

from userlm_synth.pages.text import printable

#: What LaTeX reads as more than text. After a row's end, `[` and `*` would be arguments of it.
LATEX = {
    **{c: f"\\{c}" for c in "{}$&#_%"},
    **{c: f"{{{c}}}" for c in "[]*"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    "`": "\\textasciigrave{}",
    '"': "\\char34{}",
    "\u2026": "\\ldots{}",
    "\u2013": "--",
    "\ufffd": "?",
}


def latex_text(text: str) -> str:
    """A stranger's text as text in LaTeX; two hyphens stay two."""
    apart = re.sub("-(?=-)", "-\0", printable(text))
    return "".join(LATEX.get(c, c) for c in apart).replace("\0", "{}")
