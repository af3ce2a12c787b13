"""What a person sees while a model trains: a line that moves, a log, trackers, validations.

The log is `log.jsonl` in the training's folder: one JSON object a step, and one
`{"step": N, "validation": {...}}` a validation. It holds numbers, never people's text.
"""

from __future__ import annotations

import math
import textwrap
from collections import deque
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from userlm_synth.errors import explain_disk_full
from userlm_synth.pages import number, printable
from userlm_synth.progress import Progress, say
from userlm_synth.records import Record, parse_json, to_line, write_bytes
from userlm_synth.training import trackers

LOG = "log.jsonl"
RECENT = 20  # steps over which the moving line's figures are means
SAMPLE_TURNS, SAMPLE_TURN = 12, 240  # of a sample conversation: turns, and characters of each


def read_log(folder: Path) -> list[Record]:
    """The lines of `folder/log.jsonl`, a torn last one left out; none where there is no log."""
    try:
        text = (folder / LOG).read_bytes()
    except FileNotFoundError:
        return []
    found = []
    for line in text.split(b"\n"):
        try:
            record = parse_json(line)
        except ValueError:
            continue  # torn by a kill in the middle of a write
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            found.append(record)
    return found


class Unwatched:
    """What a process other than the first has: nothing is written, sent or shown."""

    validated: Collection[int] = ()

    def __enter__(self) -> Unwatched:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(failed=kind is not None)

    def line(self, record: Record) -> None:
        """The figures of a step are known."""

    def validation(self, record: Record, sample: str | None = None) -> None:
        """The figures of a validation are known."""

    def close(self, *, failed: bool = False) -> None:
        """Nothing follows."""


class Watch(Unwatched):
    """Log, trackers and moving line of one training; a context manager.

    `start_step` is the step of the state that an interrupted training goes on from, 0 at its
    beginning: what the log says of later steps is dropped. `validated` are the steps with a
    validation in the log. `settings` go to the trackers, whose files go to `tracking` (default:
    beside `folder`, which is cleared when the training is done). Raises `UserError` for a tracker
    that is not installed or does not start.
    """

    def __init__(
        self,
        folder: Path,
        *,
        stage: str,
        total_steps: int,
        start_step: int,
        log_to: Sequence[str],
        run_name: str,
        settings: Record,
        tracking: Path | None = None,
    ) -> None:
        trackers.check_trackers(log_to)
        former = read_log(folder)
        kept = [line for line in former if line["step"] <= start_step]
        self.path = folder / LOG
        write_bytes(self.path, [to_line(line).encode() for line in kept])
        self.validated = {line["step"] for line in kept if "validation" in line}
        logged = {(line["step"], _group(line)) for line in former}
        place = tracking or folder.parent / "tracking"
        self.trackers = [
            trackers.start(name, place, run_name, settings, start_step, logged) for name in log_to
        ]
        say(f"  {stage}: every step's figures go to {self.path}")
        for tracker in self.trackers:
            say(f"  {tracker.name}: {tracker.where}")
        self.file = self.path.open("ab")
        self.recent: deque[Record] = deque(maxlen=RECENT)
        self.progress = Progress(stage, total_steps, "steps", start_step, pace=False)

    def line(self, record: Record) -> None:
        """One step: `step`, `loss`, `targets`, `seconds`; where known `end_loss`, `ends`, `mfu`
        (a share of 1); anything else that is a number."""
        self._append(record, record)
        self.recent.append(record)
        self.progress.reach(record["step"], _figures(self.recent))

    def validation(self, record: Record, sample: str | None = None) -> None:
        """One validation: `step` and `perplexity`; where known `perplexity_no_intent` and
        `end_found` (a share of 1). `sample` is a conversation to show, a turn a line."""
        figures = {name: value for name, value in record.items() if name != "step"}
        self.validated = {*self.validated, record["step"]}
        self._append({"step": record["step"], "validation": figures}, figures)
        self.progress.say("\n".join([_validated(record), *_sample(sample or "")]))

    def close(self, *, failed: bool = False) -> None:
        """End the moving line, the trackers' runs and the log."""
        self.progress.__exit__(RuntimeError if failed else None)
        for tracker in self.trackers:
            trackers.close(tracker, failed)
        self.trackers = []
        with suppress(OSError):  # each line was flushed; what a full disk kept back fails again
            self.file.close()

    def _append(self, line: Record, figures: Record) -> None:
        """A line to the log, on its way to the disk when this returns, and its figures onward."""
        numbers = {name: value for name, value in figures.items() if _is_number(value)}
        with explain_disk_full(self.path):
            self.file.write(to_line(_finite(line)).encode())
            self.file.flush()
        for tracker in list(self.trackers):
            try:
                numbers.pop("step", None)
                tracker.send(line["step"], _group(line), numbers)
            except Exception as error:  # a tracker's fault must not cost the training
                say(f"  {tracker.name}: gets no more figures ({error})")
                self.trackers.remove(tracker)


def _group(line: Record) -> str:
    return "validation" if "validation" in line else "train"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they are null in the log."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _figures(recent: Collection[Record]) -> str:
    """What the moving line says, as means over the last steps."""
    loss, end = _mean(recent, "loss", "targets"), _mean(recent, "end_loss", "ends")
    mfu = _mean(recent, "mfu", "seconds")
    seconds = sum(one["seconds"] for one in recent)
    rate = sum(one["targets"] for one in recent) / max(seconds, 1e-9)
    text = "loss " + ("not a number" if loss is None else f"{loss:.2f}")
    text += "" if end is None else f" (end token {end:.2f})"
    text += f", {rate:,.0f} targets/s"
    return text + ("" if mfu is None else f", MFU {100 * mfu:.0f} %")


def _mean(recent: Collection[Record], name: str, weight: str) -> float | None:
    """The weighted mean of a figure; None where no step has it."""
    known = [one for one in recent if _is_number(one.get(name)) and one.get(weight)]
    total = sum(one[weight] for one in known)
    return sum(one[name] * one[weight] for one in known) / total if known else None


def _validated(record: Record) -> str:
    """A validation in one line."""
    text = f"  step {record['step']:,}: validation perplexity {number(record['perplexity'])}"
    if (without := record.get("perplexity_no_intent")) is not None:
        text += f" with intent, {number(without)} without"
    if (found := record.get("end_found")) is not None:
        text += f"; end token found in {100 * found:.0f} % of places"
    return text


def _sample(text: str) -> list[str]:
    """A conversation, indented and cut; a model's control characters do not reach a terminal."""
    turns = [line for line in text.splitlines() if line.strip()]
    shown: list[str] = []
    for turn in turns[:SAMPLE_TURNS]:
        plain = printable(turn)
        short = plain if len(plain) <= SAMPLE_TURN else plain[: SAMPLE_TURN - 4] + " ..."
        shown += textwrap.wrap(short, 96, initial_indent="    ", subsequent_indent="        ")
    if len(turns) > SAMPLE_TURNS:
        shown.append(f"    ... and {len(turns) - SAMPLE_TURNS} more lines")
    return shown
