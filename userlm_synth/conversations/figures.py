"""The figures of the data card: what each step dropped, sizes, lengths, languages, countries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from userlm_synth.conversations.choose import REASONS, columns
from userlm_synth.conversations.making import Job
from userlm_synth.conversations.openings import Array
from userlm_synth.conversations.shards import LABELS, Shard, Summary
from userlm_synth.conversations.splits import SPLITS
from userlm_synth.records import Record

TURN_EDGES = [1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 50]
WORD_EDGES = [0, 5, 10, 20, 30, 50, 75, 100, 150, 200, 500, 1000]


def steps_of(job: Job, summary: Summary, why: Array) -> list[Record]:
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
    if settings.persona is not None:
        add("persona", Counter(), summary.personas)
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


def figures_of(shards: Sequence[Shard], kept: Array, split: Array) -> Record:
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
