"""Cards: Markdown from a template, with YAML at its beginning.

Texts of strangers stand in it as text, in one line or in a fence, whatever is in them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from userlm_synth.errors import UserError
from userlm_synth.pages.text import visible

#: What turns the direction of the rest of a line.
TURNS = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")
SPECIAL = re.compile(r"([\\`*_{}\[\]#|!~$])")


def shown(text: Any) -> str:
    """Text without invisible commands: what turns the direction stands there as `\\u202e`."""
    return TURNS.sub(lambda one: f"\\u{ord(one[0]):04x}", visible(text))


def plain(text: Any) -> str:
    """One line that Markdown and HTML take for text, in a table's cell too."""
    line = " ".join(shown(text).split()).replace("&", "&amp;")
    escaped = SPECIAL.sub(r"\\\1", line).replace("<", "&lt;").replace(">", "&gt;")
    # an address is no link of ours
    return re.sub(r"(\bhttps?|\bwww)([:.])", lambda one: f"{one[1]}&#{ord(one[2])};", escaped)


def code(text: Any) -> str:
    """One line as code, in a table's cell too."""
    line = " ".join(shown(text).split()).replace("`", "'")
    line = re.sub(r"(\\?)\|", lambda one: f"{one[1]}{' ' if one[1] else ''}\\|", line)
    return f"`{line}`" if line else ""


def fenced(text: Any, language: str = "") -> str:
    """A block of code that its text cannot leave: the fence is longer than any run in it."""
    body = shown(text)
    longest = max((len(run) for run in re.findall("`+", body)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{body}\n{fence}"


def link(text: Any, address: str | None) -> str:
    """A link where there is an address that can stand in one."""
    if address and re.fullmatch(r"https://[\w./%@~+#?=&:-]+", address):
        return f"[{plain(text)}]({address})"
    return plain(text)


# ---- cards -------------------------------------------------------------------------------------


def card_template(path: Path, **filters: Any) -> Any:
    """A card's jinja2 template, with the filters that texts of strangers go through.

    A value that is missing raises `jinja2.UndefinedError`: a card is whole or is not made.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(path.parent),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"plain": plain, "code": code, "fenced": fenced, "link": link} | filters
    return environment.get_template(path.name)


def front_matter(path: Path) -> dict[str, Any]:
    """The YAML at the beginning of a card; empty where there is none.

    Raises `UserError` with its line where it is no YAML.
    """
    import yaml

    if not path.is_file():
        return {}
    found = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", path.read_text("utf-8-sig"), re.DOTALL)
    try:
        front = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 2 if mark else 1  # after `---`, and from 1
        problem = getattr(error, "problem", None) or "it cannot be read"
        raise UserError(f"{path}:{line}: its front matter is no YAML: {problem}; mend it") from None
    return front if isinstance(front, dict) else {}


def yaml_of(front: dict[str, Any]) -> str:
    """Front matter as YAML, its keys in the order given."""
    import yaml

    return str(yaml.safe_dump(front, sort_keys=False, allow_unicode=True).rstrip())
