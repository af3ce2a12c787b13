"""What `prepare` leaves: the splits, the review file of templates, what went, and the data card."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from userlm_synth._version import __version__
from userlm_synth.conversations.card import write_card
from userlm_synth.conversations.choose import KEPT, REASONS, TAKEN, Choice, columns
from userlm_synth.conversations.openings import Array, hash_openings, ngrams, opening
from userlm_synth.conversations.shards import LABELS, Job, Places, Shard, Summary, aside
from userlm_synth.conversations.splits import SPLITS
from userlm_synth.conversations.templates import Templates
from userlm_synth.errors import UserError, explain_disk_full
from userlm_synth.progress import say
from userlm_synth.records import Record, to_line, user_turns, write_bytes

EXAMPLES = 3  # conversations of a template in the review file
SHOWN = 20  # templates on the data card
TURN_EDGES = [1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 50]
WORD_EDGES = [0, 5, 10, 20, 30, 50, 75, 100, 150, 200, 500, 1000]


def write_out(
    job: Job, source: Record, shards: Sequence[Shard], summary: Summary, choice: Choice, out: Path
) -> Record:
    """Write every file of a prepared set; returns the counts of the splits."""
    why = choice.why
    kept = why == KEPT
    split, group = columns(shards, "split", "group")
    sizes = {name: int((kept & (split == at)).sum()) for at, name in enumerate(SPLITS)}
    steps = _steps(job, summary, why)
    _refuse_empty(job, sizes, steps)
    _assert_disjoint(group[kept], split[kept])
    places = Places(shards)
    files = _write_lines(job, shards, places, choice, out)
    templates = _write_review(job, places, choice, out)
    rejected = [*summary.rejected, *_taken(places, why)]
    _write_or_remove(
        out / "rejected.jsonl", rejected, lambda line: json.dumps({"fault": line}).encode()
    )
    card = {
        "name": "Prepared conversations",
        "version": __version__,
        "source": _source(job, source, summary),
        "settings": _settings(job),
        "seed": job.seed,
        "steps": steps,
        "templates": [{k: one[k] for k in ("text", "count", "kept")} for one in templates[:SHOWN]],
        "templates_found": len(templates),
        **_figures(shards, kept, split),
        "files": files,
    }
    write_card(card, out)
    _say(steps, sizes)
    with_intent = sum(one["with_intent"] for one in card["splits"].values())
    return {**sizes, "with_intent": with_intent}


# ---- counts ----------------------------------------------------------------------------------


def _steps(job: Job, summary: Summary, why: Array) -> list[Record]:
    """What each step dropped and changed; none that was not done."""
    settings, dedup = job.settings, job.settings.dedup
    steps: list[Record] = []
    left = summary.drafts + summary.unreadable.total()

    def add(name: str, dropped: Counter[str], changed: Counter[str] | None = None) -> None:
        nonlocal left
        after = left - dropped.total()
        steps.append(
            {
                "step": name, "in": left, "out": after,
                "dropped": dict(dropped.most_common()),
                "changed": dict((changed or Counter()).most_common()),
            }
        )  # fmt: skip
        left = after

    add("read", summary.unreadable)
    if settings.clean:
        add("clean", summary.dropped, summary.changed)
    if settings.redact:
        add("redact", Counter(), summary.redacted)
    if summary.invalid:
        add("check", summary.invalid)
    number = np.bincount(why, minlength=len(REASONS) + 1).tolist()
    gone = {
        at: Counter({reason: number[at]} if number[at] else {}) for at, reason in REASONS.items()
    }
    if gone[1] or gone[2]:
        add("ids", gone[1] + gone[2])
    if dedup:
        if dedup.exact:
            add("exact copies", gone[3])
        add("templates", gone[4])
        if dedup.near < 1:
            add("near-duplicates", gone[5])
    return steps


def _figures(shards: Sequence[Shard], kept: Array, split: Array) -> Record:
    """Sizes, histograms and labels of what is kept."""
    user_turns_, turns, words, user, intents = columns(
        shards, "user_turns", "turns", "turn_words", "user", "with_intent"
    )
    starts = np.concatenate([[0], np.cumsum(user_turns_)])
    splits, histograms = {}, {
        "user_turns": {"edges": TURN_EDGES, "counts": {}},
        "words_per_user_turn": {"edges": WORD_EDGES, "counts": {}},
        "words_in_first_turn": {"edges": WORD_EDGES, "counts": {}},
    }  # fmt: skip
    for at, name in enumerate(SPLITS):
        rows = kept & (split == at)
        said = words[np.repeat(rows, user_turns_)]
        splits[name] = {
            "conversations": int(rows.sum()),
            "users": len(np.unique(user[rows])),
            "user_turns": int(user_turns_[rows].sum()),
            "turns": int(turns[rows].sum()),
            "user_words": int(said.sum()),
            "with_intent": int(intents[rows].sum()),
        }
        for key, edges, values in (
            ("user_turns", TURN_EDGES, user_turns_[rows]),
            ("words_per_user_turn", WORD_EDGES, said),
            ("words_in_first_turn", WORD_EDGES, words[starts[:-1][rows]]),
        ):
            bins = np.searchsorted(edges, values, "right") - 1
            histograms[key]["counts"][name] = np.bincount(bins, minlength=len(edges)).tolist()  # type: ignore[index]
    labels = _labels(shards, kept)
    return {
        "splits": splits, "histograms": histograms, "languages": labels["language"],
        "countries": labels["country"], "models": labels["model"], "sources": labels["source"],
    }  # fmt: skip


def _labels(shards: Sequence[Shard], kept: Array) -> dict[str, dict[str, int]]:
    """How many of the kept have each language, country, model and source; the most first."""
    found: dict[str, Counter[str]] = {name: Counter() for name in LABELS}
    start = 0
    for shard in shards:
        tables = shard.facts["labels"]
        for name, values in zip(LABELS, shard.load(*LABELS), strict=True):
            own = kept[start : start + len(values)]
            counts = np.bincount(values[own], minlength=len(tables[name]))
            found[name].update(dict(zip(tables[name], counts.tolist(), strict=True)))
        start += len(values)
    return {
        name: {label: number for label, number in sorted(counter.items(), key=_by_number) if number}
        for name, counter in found.items()
    }


def _by_number(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


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
    from contextlib import ExitStack

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


def _write_or_remove(path: Path, items: Sequence[Any], as_line: Any) -> None:
    """A JSONL file, or none where there is nothing to say."""
    if items:
        write_bytes(path, (as_line(item) + b"\n" for item in items))
    else:
        path.unlink(missing_ok=True)


def _taken(places: Places, why: Array) -> Iterator[str]:
    for row in np.flatnonzero(why == TAKEN).tolist():
        yield f"{places.where(row)}: id: {places.record(row)['id']!r} is another conversation's too"


# ---- templates -------------------------------------------------------------------------------


def _write_review(job: Job, places: Places, choice: Choice, out: Path) -> list[Record]:
    """`templates.jsonl`: each template with its copies and three examples, for a person to read."""
    found = list(_review(job, places, choice)) if choice.templates else []
    _write_or_remove(out / "templates.jsonl", found, lambda one: to_line(one).encode().rstrip())
    return found


def _review(job: Job, places: Places, choice: Choice) -> Iterator[Record]:
    assert choice.templates
    of = choice.templates.of
    order = np.argsort(of, kind="stable")
    starts = np.searchsorted(of[order], np.arange(choice.templates.count + 1))
    for number in range(choice.templates.count):
        rows = order[starts[number] : starts[number + 1]]
        some = rows[np.linspace(0, len(rows) - 1, EXAMPLES).round().astype(int)]
        records = [places.record(row) for row in dict.fromkeys(some.tolist())]
        texts = [_template_text(record, choice.templates, number, job.ngram) for record in records]
        yield {
            "text": max(texts, key=len),
            "count": len(rows),
            "kept": int((choice.why[rows] == KEPT).sum()),
            "examples": [
                {"id": one["id"], "text": user_turns(one["messages"])[0][:500]} for one in records
            ],
        }


def _template_text(record: Record, templates: Templates, number: int, ngram: int) -> str:
    """The words of an opening that lie in its template's n-grams, gaps as an ellipsis."""
    words = opening(record, ngram)
    hashes, _ = ngrams(hash_openings([words]), ngram)
    own = templates.grams[templates.owner == number]
    inside = np.zeros(len(words) + 1, bool)
    for at in np.flatnonzero(np.isin(hashes, own)).tolist():
        inside[at : at + ngram] = True
    text = "".join(f" {word}" if yes else "\0" for word, yes in zip(words, inside, strict=False))
    return " … ".join(part.strip() for part in text.split("\0") if part.strip()) or " ".join(words)
