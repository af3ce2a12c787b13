"""The rows of an evaluation while they are filled: one a simulator and file, and people's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from userlm_synth.estimates import Units
from userlm_synth.evaluation.first_turns import with_intent
from userlm_synth.evaluation.scores import Scores
from userlm_synth.progress import say
from userlm_synth.recipe import Evaluate
from userlm_synth.records import Record, read_records, sha256_file, to_line, user_turns

HUMAN = "human"
FIGURES = (
    "first_turn_diversity", "first_turn_overlap", "intent_decomposition", "termination",
    "naturalness", "role_adherence", "intent_adherence",
)  # fmt: skip
NO_INTENT = "no conversation has an intent"


@dataclass(eq=False)
class Row:
    """One row: its record, the units behind its figures, and what figures are made from."""

    record: Record
    units: dict[str, Units] = field(default_factory=dict)
    scores: dict[bool, list[Scores]] = field(default_factory=dict)  # with the intent? best first
    texts: dict[str, str] = field(default_factory=dict)  # first turns by conversation

    @classmethod
    def new(cls, label: str, model: str, kind: str, file: Path, n: int) -> Row:
        """Without any figure yet."""
        head = {"model": model, "label": label, "fingerprint": model, "kind": kind}
        about = {"conversations": file.name, "n": n, "perplexity": {}, "other_forms": []}
        empty: Record = {"gaps": {}, **dict.fromkeys(FIGURES), "not_measured": {}}
        return cls({**head, **about, **empty})

    def add(self, name: str, found: Record | str | None, units: Mapping[str, Units]) -> None:
        """A figure, or the reason why there is none."""
        if isinstance(found, str):
            self.lack(found, name)
        else:
            self.record[name] = found
            self.units |= units

    def lack(self, why: str, *names: str) -> None:
        """These figures are not measured."""
        self.record["not_measured"] |= dict.fromkeys(names, why)

    def lines(self) -> Iterable[bytes]:
        """Its part of `units.jsonl`."""
        head = {key: self.record[key] for key in ("model", "label", "conversations")}
        for figure, units in self.units.items():
            yield to_line({**head, "figure": figure, "units": units.plain()}).encode()


@dataclass(eq=False)
class Held:
    """A file of held-out conversations: all of them, and those that each figure looks at."""

    path: Path
    conversations: Sequence[Record]
    opened: Sequence[Record]  # first turns
    spoken: Sequence[Record]  # every turn of the user is sampled
    left: Sequence[Record]  # leaving
    rows: dict[str, Row] = field(default_factory=dict)  # by label

    @classmethod
    def read(cls, path: Path, settings: Evaluate, seed: int) -> Held:
        """Every row is measured on the same conversations, so that n is the same."""
        chats = read_records(path, "conversation")[: settings.max_conversations]
        known = [one for one in chats if one["intent"]]

        def drawn(most: int, what: str) -> list[Record]:
            return with_intent(chats, most, seed=seed, what=what)

        left = (
            drawn(settings.termination, "termination") if known else chats[: settings.termination]
        )
        held = cls(
            path, chats, drawn(settings.first_turns, "first turns"),
            drawn(settings.decomposition, "decomposition"), left,
        )  # fmt: skip
        lack = len(chats) - len(known)
        if lack:
            say(f"  {path.name}: {lack:,} of {len(chats):,} conversations have no intent; what "
                "needs one is measured without them")  # fmt: skip
        if 0 < len(known) < settings.first_turns:
            say(f"  {path.name}: {len(known):,} first turns a row, not {settings.first_turns:,}: "
                "there are no more conversations with an intent")  # fmt: skip
        return held

    def about(self) -> Record:
        """What `evaluation.json` says of the file."""
        ends = sum(one["messages"][-1]["role"] == "assistant" for one in self.conversations)
        return {
            "file": self.path.name,
            "hash": sha256_file(self.path)[:16],
            "n": len(self.conversations),
            "with_intent": sum(bool(one["intent"]) for one in self.conversations),
            "user_turns": sum(len(user_turns(one["messages"])) for one in self.conversations),
            "ends": ends,
        }
