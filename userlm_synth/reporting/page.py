"""The report as one self-contained HTML page: no request, no outside script, hostile text inert.

Texts of models and people reach the page only through autoescaping, and the page's own policy
(CSP) allows nothing but its one style and its one script, each by its SHA-256 hash.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import json
import os
import random
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from userlm_synth.errors import UserError
from userlm_synth.reporting import charts
from userlm_synth.reporting.figures import Record, user_turns
from userlm_synth.reporting.shape import model_name
from userlm_synth.reporting.statistics import make_report

SHOWN = 20  # dialogues on the page
LONG = 1200  # characters from which a message scrolls
LONG_LINES = 24  # or lines
LONGEST = 200_000  # characters of a message that the page holds
#: How intents begin (the paper's form); twenty lines that all start so are hard to tell apart.
OPENING = "You are a user chatting with an assistant language model to "
#: A piece of a long run; `visible` leaves no NUL in a text, so a NUL can mark its end.
UNBROKEN = re.compile(r"\S{200,399}?(?=\w)|\S{400}")
#: Control characters as their pictures (U+2400 ff.); tab and line feed stay.
PICTURES = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {127: 0x2421}


def csp_hash(code: str) -> str:
    """The CSP source expression that allows exactly this inline style or script."""
    digest = hashlib.sha256(str(code).encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def visible(text: Any) -> str:
    """Text that UTF-8 and HTML can hold: control characters as pictures, the very long cut."""
    plain = str(text).replace("\r\n", "\n").encode("utf-8", "replace").decode("utf-8")
    if len(plain) > LONGEST:
        plain = f"{plain[:LONGEST]}\n[{len(plain) - LONGEST:,} more characters in the file]"
    return plain.translate(PICTURES)


def breakable(text: Any) -> Any:
    """`visible` text as markup, with a <wbr> every few hundred characters of an unbroken run.

    Browsers take half a minute to wrap one word of 100,000 characters, and a third of a second
    to wrap it in pieces. A piece never ends before a combining mark if it can end elsewhere.
    """
    from markupsafe import Markup

    pieces = UNBROKEN.sub(lambda run: f"{run[0]}\0", visible(text)).split("\0")
    return Markup("<wbr>").join(pieces)


def number(value: float | int | None) -> str:
    """A number for readers: three digits or more, a true minus sign, a dash where there is none."""
    if value is None:
        return "\u2013"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.{1 if value == 0 or abs(value) >= 9.995 else 2}f}".replace("-", "\u2212")


def signed(value: float) -> str:
    """A difference, always with its sign."""
    return number(value) if value < 0 else f"+{number(value)}"


def is_long(text: str) -> bool:
    """True for a message that gets its own scroll bar."""
    return len(text) > LONG or text.count("\n") >= LONG_LINES


def sampled(dialogues: list[Record], seed: int) -> list[dict[str, Any]]:
    """At most `SHOWN` dialogues drawn at random, not chosen, as the template shows them."""
    chosen = random.Random(f"page {seed}").sample(dialogues, min(SHOWN, len(dialogues)))
    return [
        {
            "id": dialogue["id"],
            "intent": dialogue.get("intent") or "no intent",
            "goal": (dialogue.get("intent") or "no intent").removeprefix(OPENING),
            "persona": dialogue.get("persona"),
            "stop_reason": dialogue["stop_reason"],
            "user_model": model_name(dialogue.get("user_model")),
            "assistant_model": model_name(dialogue.get("assistant_model")),
            "turns": len(user_turns(dialogue)),
            "messages": [
                {**message, "long": is_long(message["content"])} for message in dialogue["messages"]
            ],
        }
        for dialogue in chosen
    ]


def listed(names: Iterable[str], most: int = 3) -> list[str]:
    """The first names for a sentence, and how many more there are."""
    every = list(names)
    return every[:most] + ([f"{len(every) - most} more"] if len(every) > most else [])


def render_page(report: dict[str, Any], dialogues: list[Record], *, seed: int = 0) -> str:
    """The page for a report of `make_report`, with dialogues drawn from `dialogues` by `seed`."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {
        "csp_hash": csp_hash,
        "visible": visible,
        "breakable": breakable,
        "number": number,
        "signed": signed,
        "listed": listed,
    }
    template = importlib.resources.files("userlm_synth.reporting").joinpath("page.html.j2")
    shown = sampled(dialogues, seed)
    shape = report["shape"]
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        report=report,
        shape=shape,
        dialogues=shown,
        stop_reasons=sorted({dialogue["stop_reason"] for dialogue in shown}),
        charts={
            key: charts.columns(**{name: shape[key][name] for name in shape[key]})
            for key in ("user_turns", "words_per_user_turn")
        },
        stops=charts.bars(shape["stop_reasons"]),
        strip=charts.strip,
        seed=seed,
    )


def _replace(path: Path, text: str) -> None:
    """Write a file in one step: readers see the old text or the new one, never half of it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        Path(name).chmod(0o644)
        os.replace(name, path)  # noqa: PTH105
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_report(
    dialogues: list[Record],
    rejected: list[Record],
    reference: list[Record],
    out: Path,
    *,
    title: str,
    seed: int = 0,
) -> dict[str, Any]:
    """Make the report, write ``out/report.json`` and ``out/index.html``, return the report."""
    report = make_report(dialogues, rejected, reference, title=title, seed=seed)
    page = render_page(report, dialogues, seed=seed)
    try:
        out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(report, ensure_ascii=False, indent=2, allow_nan=False)
        _replace(out / "report.json", text + "\n")
        _replace(out / "index.html", page)
    except OSError as error:
        raise UserError(f"{out}: the report cannot be written: {error.strerror}") from error
    return report
