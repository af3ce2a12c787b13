"""What `prepare` leaves: the splits, the review file of templates, what went, and the data card."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import orjson

from userlm_synth._version import __version__
from userlm_synth.conversations.card import write_card
from userlm_synth.conversations.choose import KEPT, REASONS, TAKEN, Choice, columns
from userlm_synth.conversations.figures import figures_of, steps_of
from userlm_synth.conversations.making import Job, aside
from userlm_synth.conversations.openings import Array
from userlm_synth.conversations.review import review
from userlm_synth.conversations.shards import Places, Shard, Summary
from userlm_synth.conversations.splits import SPLITS
from userlm_synth.errors import UserError, explain_disk_full
from userlm_synth.progress import say
from userlm_synth.records import Record, write_bytes

SHOWN = 20  # templates on the data card


def write_out(
    job: Job, source: Record, shards: Sequence[Shard], summary: Summary, choice: Choice, out: Path
) -> Record:
    """Write every file of a prepared set; returns the counts of the splits."""
    why = choice.why
    kept = why == KEPT
    split, group = columns(shards, "split", "group")
    sizes = {name: int((kept & (split == at)).sum()) for at, name in enumerate(SPLITS)}
    steps = steps_of(job, summary, why)
    _refuse_empty(job, sizes, steps)
    _assert_disjoint(group[kept], split[kept])
    places = Places(shards)
    files = _write_lines(job, shards, places, choice, out)
    templates = list(review(places, choice, job.ngram))
    _write_or_remove(out / "templates.jsonl", templates)
    rejected = [*summary.rejected, *_taken(places, why)]
    _write_or_remove(out / "rejected.jsonl", [{"fault": fault} for fault in rejected])
    card = {
        "name": "Prepared conversations",
        "version": __version__,
        "source": _source(job, source, summary),
        "settings": _settings(job),
        "seed": job.seed,
        "steps": steps,
        "templates": [{k: one[k] for k in ("text", "count", "kept")} for one in templates[:SHOWN]],
        "templates_found": len(templates),
        **figures_of(shards, kept, split),
        "files": files,
    }
    write_card(card, out)
    _say(steps, sizes)
    with_intent = sum(one["with_intent"] for one in card["splits"].values())
    return {**sizes, "with_intent": with_intent}


def _source(job: Job, known: Record, summary: Summary) -> Record:
    return {
        "name": known["name"],
        "where": known["where"] or known["name"],
        "revision": known["revision"],
        "license": job.settings.license or known["license"],
        "format": ", ".join(form for form, _ in summary.forms.most_common()),
    }


def _settings(job: Job) -> Record:
    settings = dataclasses.asdict(job.settings)
    settings.pop("workers")
    return orjson.loads(orjson.dumps(settings))  # type: ignore[no-any-return]


def _refuse_empty(job: Job, sizes: dict[str, int], steps: list[Record]) -> None:
    """Nothing left at all, or nothing in a split that was asked for."""
    total = sum(sizes.values())
    if not total:
        gone = ", ".join(
            f"{reason} {number:,}" for step in steps for reason, number in step["dropped"].items()
        )
        raise UserError(f"{job.settings.source}: no conversation is left: {gone}")
    for name, size in sizes.items():
        if getattr(job.settings, name) > 0 and not size:
            raise UserError(
                f"conversations.{name}: no conversation fell into this split ({total} in "
                f"all, split by {job.settings.split_by}); give it a larger share, or change the "
                "seed"
            )


def _assert_disjoint(group: Array, split: Array) -> None:
    """No user (or other group) in two splits, whatever happened on the way here."""
    order = np.argsort(group, kind="stable")
    group, split = group[order], split[order]
    assert not ((group[1:] == group[:-1]) & (split[1:] != split[:-1])).any()


def _say(steps: list[Record], sizes: dict[str, int]) -> None:
    for step in steps:
        facts = [f"{reason} {number:,}" for reason, number in step["dropped"].items()]
        changed = [f"{what} {number:,}" for what, number in step["changed"].items()]
        text = f"  {step['step']}: {step['out']:,}"
        if facts:
            text += f" left; dropped: {', '.join(facts)}"
        if changed:
            text += f"; changed: {', '.join(changed)}"
        say(text)
    say("  " + ", ".join(f"{name} {size:,}" for name, size in sizes.items()))


# ---- files -----------------------------------------------------------------------------------


class _Output:
    """A file that takes its place when it is whole; knows its size and SHA-256."""

    def __init__(self, path: Path) -> None:
        self.path, self.part = path, path.with_name(f".{path.name}.part")
        self.digest, self.size = hashlib.sha256(), 0

    def __enter__(self) -> _Output:
        self.file = self.part.open("wb")
        return self

    def write(self, data: bytes) -> None:
        """More of the file."""
        self.file.write(data)
        self.digest.update(data)
        self.size += len(data)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.file.flush()
            os.fsync(self.file.fileno())
        self.file.close()
        if kind is None:
            self.part.replace(self.path)
        else:
            self.part.unlink(missing_ok=True)


def _write_lines(
    job: Job, shards: Sequence[Shard], places: Places, choice: Choice, out: Path
) -> Record:
    """The splits, and with `keep_dropped` what was dropped."""
    (out / "dropped.jsonl").unlink(missing_ok=True)
    files = [_Output(out / f"{name}.jsonl") for name in SPLITS]
    aside_file = _Output(out / "dropped.jsonl") if job.settings.keep_dropped else None
    with explain_disk_full(out), ExitStack() as stack:
        for file in (*files, *([aside_file] if aside_file else [])):
            stack.enter_context(file)
        for shard, start in zip(shards, places.starts.tolist(), strict=False):
            data = shard.lines.read_bytes()
            line, split = shard.load("line", "split")
            why = choice.why[start : start + len(split)]
            for at, file in enumerate(files):
                rows = np.flatnonzero((why == KEPT) & (split == at))
                edges = zip(line[rows].tolist(), line[rows + 1].tolist(), strict=True)
                file.write(b"".join(data[low:high] for low, high in edges))
            if aside_file:
                aside_file.write(b"".join(_dropped(shard, data, line, why)))
    return {
        file.path.name: {"sha256": file.digest.hexdigest(), "bytes": file.size} for file in files
    }


def _dropped(shard: Shard, data: bytes, line: Array, why: Array) -> Iterator[bytes]:
    """Lines of `dropped.jsonl`: what cleaning dropped, then the copies."""
    if shard.dropped.exists():
        yield shard.dropped.read_bytes()
    numbers = shard.load("number")[0]
    file = shard.facts["file"]
    for row in np.flatnonzero((why != KEPT) & (why != TAKEN)).tolist():
        record = orjson.loads(data[line[row] : line[row + 1]])
        yield aside(REASONS[int(why[row])], f"{file}:{numbers[row]}", record)


def _write_or_remove(path: Path, items: Sequence[Record]) -> None:
    """A JSONL file, or none where there is nothing to say."""
    if items:
        write_bytes(path, (json.dumps(item).encode() + b"\n" for item in items))
    else:
        path.unlink(missing_ok=True)


def _taken(places: Places, why: Array) -> Iterator[str]:
    for row in np.flatnonzero(why == TAKEN).tolist():
        yield f"{places.where(row)}: id: {places.record(row)['id']!r} is another conversation's too"
