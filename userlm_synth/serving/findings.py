"""What a probe finds, and the conversations that the probes are held in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from userlm_synth.records import INTENT_OPENING, Message
from userlm_synth.serving.patients import Answer, Ask, Patient

Verdict = Literal["ok", "warning", "broken", "not applicable"]

INTENT: Message = {"role": "system", "content": f"{INTENT_OPENING} order a small latte."}
OPENING = [INTENT]
GOODBYE: list[Message] = [
    INTENT,
    {"role": "user", "content": "could i get a small latte please"},
    {"role": "assistant", "content": "Of course. It will be ready in five minutes."},
    {"role": "user", "content": "great, thanks, that's all"},
    {"role": "assistant", "content": "You're welcome. Goodbye!"},
]
QUESTION: list[Message] = [{"role": "user", "content": "What can I cook with eggs and rice?"}]
AT_ONCE = 8  # requests


@dataclass(frozen=True)
class Finding:
    """What a probe found; `settings` are the recipe's fields that mend it."""

    verdict: Verdict
    what: str
    mend: str = ""
    settings: dict[str, str] = field(default_factory=dict)


def ok(what: str) -> Finding:
    """Nothing wrong."""
    return Finding("ok", what)


def skip(why: str) -> Finding:
    """Nothing to examine."""
    return Finding("not applicable", why)


def silent(answer: Answer) -> Finding:
    """No answer at all."""
    return Finding(
        "broken", f"no answer: {answer.text}", "Send one request by hand and read the server's log."
    )


def start(patient: Patient) -> list[Message]:
    """A conversation in which it is the patient's turn."""
    return OPENING if patient.role == "user" else QUESTION


def spoken(patient: Patient, seed: int) -> Ask:
    """A turn of some length, sampled."""
    return Ask(start(patient), max_tokens=24, temperature=1.0, seed=seed)
