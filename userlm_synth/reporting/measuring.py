"""All figures of a report: what they are, their values, and the difference of two sets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from userlm_synth.progress import Progress
from userlm_synth.recipe import Report
from userlm_synth.records import Record
from userlm_synth.reporting.diversity import variety
from userlm_synth.reporting.naturalness import natural
from userlm_synth.reporting.plan import Definition, Measured, Plan
from userlm_synth.reporting.trust import trust

GROUPS = ("diversity", "naturalness", "trust")
DIGITS = 6  # later ones depend on the machine


def definitions(settings: Report, kept: Path | None = None) -> list[Definition]:
    """Every figure, in the order of the page; no two have one key.

    `kept`: the folder of the detector's answers, so that none is paid for twice.
    """
    found = [
        *variety.DEFINITIONS,
        *natural.definitions(settings.detector, settings.human_label, kept),
        *trust.definitions(settings.toxicity),
    ]
    keys = [one.key for one in found]
    assert len(set(keys)) == len(keys), keys
    return sorted(found, key=lambda one: GROUPS.index(one.group))


def measure_all(plan: Plan, defined: Sequence[Definition], progress: Progress) -> Record:
    """`figures` of a set: each as measured, or `{"kind": "none", "why": ...}`."""
    found = {}
    for one in defined:
        found[one.key] = measure(plan, one)
        progress.step(note=one.name)
    return found


def measure(plan: Plan, one: Definition) -> Measured:
    """A figure of a plan; numbers that are none are no figure."""
    if plan.n < 2:
        return _none("needs two dialogues")
    measured = one.make(plan)
    if isinstance(measured, str):
        return _none(measured)
    if not all(math.isfinite(number) for number in _numbers(measured)):
        return _none("gives no finite number on these texts")
    return measured


def _none(why: str) -> Measured:
    return {"kind": "none", "why": why}


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for item in value.values() for number in _numbers(item)]
    if isinstance(value, (list, tuple)):
        return [number for item in value for number in _numbers(item)]
    return [value] if isinstance(value, float) else []


def compared(first: Record, second: Record) -> Record:
    """The second set's figures minus the first's, where both have them."""
    return {
        key: difference(first[key]["made"], second[key]["made"])
        for key in first
        if first[key]["kind"] == second[key]["kind"] != "none"
    }


def difference(first: Record, second: Record) -> Record:
    """`{difference: {value, low, high}, beyond_chance}` of two independent figures, each
    `{value, low, high}`: the square-and-add interval of Zou & Donner 2008 (MOVER) from their own,
    which need not be symmetric. Beyond chance: it does not hold 0.
    """
    gap = second["value"] - first["value"]
    low = gap - math.hypot(second["value"] - second["low"], first["high"] - first["value"])
    high = gap + math.hypot(second["high"] - second["value"], first["value"] - first["low"])
    found = {"value": gap, "low": low, "high": high}
    return {"difference": found, "beyond_chance": bool(gap) and not low <= 0 <= high}


def plain(value: Any) -> Any:
    """As JSON: numbers of `DIGITS` decimals, and text that UTF-8 can hold."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, float):
        return round(float(value), DIGITS) + 0.0  # no -0.0
    if isinstance(value, int):
        return int(value)
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {plain(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "item"):  # a number of numpy
        return plain(value.item())
    raise TypeError(f"{type(value).__name__} is not JSON")
