"""A template and its values as one self-contained HTML page.

Texts reach a page only through autoescaping, and the page's own policy (CSP) allows nothing but
its one style and, where it has one, its one script, each by its SHA-256 hash.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from userlm_synth.pages import text

if TYPE_CHECKING:
    import jinja2

PARTS = Path(__file__).resolve().parent


def csp_hash(code: str) -> str:
    """The CSP source expression that allows exactly this inline style or script."""
    digest = hashlib.sha256(str(code).encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def render(template: Path, **values: Any) -> str:
    """The page that a template file makes of `values`; it may include what lies in this folder.

    A value that is missing raises `jinja2.UndefinedError`: a page is whole or is not made.
    """
    return _environment(template.parent).get_template(template.name).render(**values)


@functools.cache  # a template takes longer to compile than to fill
def _environment(folder: Path) -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, PARTS]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "breakable": text.breakable,
        "csp_hash": csp_hash,
        "listed": text.listed,
        "number": text.number,
        "signed": text.signed,
        "size": text.size,
        "visible": text.visible,
    }
    return environment
