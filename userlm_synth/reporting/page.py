"""The report as one self-contained HTML page: no request, no outside script, hostile text inert.

`userlm_synth.pages` has the style and the care for texts of models and people.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from userlm_synth.errors import UserError
from userlm_synth.pages import render
from userlm_synth.records import write_bytes
from userlm_synth.reporting import charts
from userlm_synth.reporting.figures import Record, user_turns
from userlm_synth.reporting.shape import model_name
from userlm_synth.reporting.statistics import make_report

TEMPLATE = Path(__file__).with_name("page.html.j2")
SHOWN = 20  # dialogues on the page
LONG = 1200  # characters from which a message scrolls
LONG_LINES = 24  # or lines
#: How intents begin (the paper's form); twenty lines that all start so are hard to tell apart.
OPENING = "You are a user chatting with an assistant language model to "


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


def render_page(report: dict[str, Any], dialogues: list[Record], *, seed: int = 0) -> str:
    """The page for a report of `make_report`, with dialogues drawn from `dialogues` by `seed`."""
    shown = sampled(dialogues, seed)
    shape = report["shape"]
    return render(
        TEMPLATE,
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
        text = json.dumps(report, ensure_ascii=False, indent=2, allow_nan=False)
        write_bytes(out / "report.json", [f"{text}\n".encode()])
        write_bytes(out / "index.html", [page.encode()])
    except OSError as error:
        raise UserError(f"{out}: the report cannot be written: {error.strerror}") from error
    return report
