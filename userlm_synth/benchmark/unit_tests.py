"""Unit tests of a model-written function, with a verdict that the function cannot forge.

The function and its tests run in two sandboxes. Calls and answers go over two pipes between them as
plain data; the expected values stay with the tests, whose report is a third pipe that the function
has no end of. So it can only answer rightly, answer wrongly, or not answer.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from userlm_synth.benchmark.inside import encode
from userlm_synth.benchmark.sandbox import READY, Inside, Limits, Sandbox, follow, require_sandbox

REASON = 400  # characters
TAIL = 2000  # characters of what the function printed


@dataclass(frozen=True)
class Verdict:
    """Whether an answer passed its check, and why not. `attempted`: it held a solution at all."""

    passed: bool
    reason: str = ""
    output: str = ""  # the end of what the program printed
    attempted: bool = True


def check_function(
    code: str,
    entry_point: str,
    cases: Sequence[Mapping[str, Any]] | None = None,
    *,
    test: str | None = None,
    setup: str = "",
    limits: Limits | None = None,
    sandbox: Sandbox | None = None,
) -> Verdict:
    """Run the function `entry_point` (or `Class.method`) of `code` against its tests.

    Either `cases` of plain data, {"args": [...], "kwargs": {...}, "expected": value}, or `test`,
    source with `check(candidate)` as in HumanEval (arXiv 2107.03374) or with plain asserts. `setup`
    is source that goes before both the code and the tests. Blocks; use a thread inside asyncio.
    """
    if (cases is None) == (test is None):
        raise ValueError("a function is checked by cases or by a test, one of them")
    sandbox, limits = sandbox or require_sandbox(), limits or Limits()
    whole = [{"args": [], "kwargs": {}, **case} for case in cases or ()]
    tests = {
        "test": test,
        "cases": None if cases is None else [encoded(case) for case in whole],
    }
    both = {"entry_point": entry_point, "setup": setup}
    with ExitStack() as open_now:
        with ExitStack() as theirs:  # once they run, they alone hold the ends of their pipes
            ask, answer = pipe(theirs), pipe(theirs)
            ends = {"calls": ask[0], "answers": answer[1]}
            function = Inside(sandbox, limits, "answer", {"code": code, **both}, ends)
            open_now.enter_context(function)
            ends = {"calls": ask[1], "answers": answer[0]}
            judge = Inside(sandbox, limits, "judge", {**tests, **both}, ends)
            open_now.enter_context(judge)
        reason = follow([function, judge], limits)
        report = read_report(judge)
        if report and report["ended"]:
            with suppress(subprocess.TimeoutExpired):  # for its own status, not that of our kill
                function.process.wait(1)
    output = function.text("stdout") + function.text("stderr")
    return Verdict(*verdict(reason, report, function), output[-TAIL:])


def encoded(case: Mapping[str, Any]) -> dict[str, Any]:
    """A case as data for the sandbox of the tests."""
    return {part: encode(case[part]) for part in ("args", "kwargs", "expected")}


def pipe(owner: ExitStack) -> tuple[int, int]:
    """A pipe (read from, write to) that closes with its owner."""
    ends = os.pipe()
    for end in ends:
        owner.callback(os.close, end)
    return ends


def read_report(judge: Inside) -> dict[str, Any] | None:
    """What the tests found; None where they did not come to an end."""
    text = bytes(judge.heard["report"]).removeprefix(READY)
    try:
        return dict(json.loads(text))
    except ValueError:
        return None


def verdict(stopped: str, report: dict[str, Any] | None, function: Inside) -> tuple[bool, str]:
    """Passed or not, and the reason, from the watch, the tests, and the end of the function."""
    if stopped:
        return False, stopped
    if report is None:
        return False, "the tests did not come to an end"
    reason = str(report["reason"])
    if report["ended"]:
        reason = function.broken_limit() or f"{reason} ({how_it_ended(function.status)})"
    if len(reason) > REASON:
        reason = reason[: REASON - 3] + "..."
    return bool(report["passed"]) and not reason, reason


def how_it_ended(status: int) -> str:
    """The end of a process, in the words of the system."""
    try:
        return signal.Signals(status - 128).name
    except ValueError:
        return f"exit status {status}"
