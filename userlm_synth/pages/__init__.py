"""What the HTML pages share: style, head, numbers, and the care that hostile text needs.

`render` makes one self-contained page of a template; `base.css` and `parts.html.j2` are for
templates to include. Nothing here knows what a page is about.
"""

from userlm_synth.pages.rendering import csp_hash, render
from userlm_synth.pages.text import (
    breakable,
    listed,
    number,
    printable,
    shares,
    signed,
    size,
    visible,
)

__all__ = [
    "breakable",
    "csp_hash",
    "listed",
    "number",
    "printable",
    "render",
    "shares",
    "signed",
    "size",
    "visible",
]
