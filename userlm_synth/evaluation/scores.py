"""What one pass over conversations gives: the losses of the user's words, and who leaves where.

The sums are kept by turn, so that every figure (a whole perplexity, one by turn, bits a byte) has
its interval over conversations. What was worked out is kept in a folder, some conversations a file,
and found again by everything that it depends on.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from userlm_synth.records import Record, user_turns, write_bytes

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(eq=False)
class Places:
    """Where a user may leave, [p] each: every place of a conversation after its first turn.

    `owner`: the number of the conversation; `turn`: that of the user's turn which is written there,
    or would be; `ended`: the person left there. `leaves` and `probability` are a model's: None
    where they were not measured. A conversation that closes on a user's turn has no end.
    """

    owner: Ints
    turn: Ints
    ended: Bools
    leaves: Bools | None = None
    probability: Floats | None = None

    def __len__(self) -> int:
        return len(self.owner)

    @classmethod
    def of(cls, conversations: Sequence[Record]) -> Places:
        """The places of some conversations, in order."""
        owner, turn, ended = [], [], []  # type: list[int], list[int], list[bool]
        for number, one in enumerate(conversations):
            turns = len(user_turns(one["messages"]))
            left = one["messages"][-1]["role"] == "assistant"
            count = turns - 1 + left
            owner += [number] * count
            turn += range(2, count + 2)
            ended += [at == turns + 1 for at in range(2, count + 2)]
        return cls(np.array(owner, np.int64), np.array(turn, np.int64), np.array(ended, np.bool_))


@dataclass(eq=False)
class Scores:
    """What a model made of some conversations, shown in one form.

    `ids` [n] name the conversations. [t] each, one a user's turn: `owner` (which conversation),
    `turn` (its number, from 1), and of its words the loss in `nats`, the `tokens` and the `bytes`
    that were scored. `shortened` places had more history than fits; of `cut` turns the end did not
    fit, and was not scored.
    """

    form: str
    ids: list[str]
    owner: Ints
    turn: Ints
    nats: Floats
    tokens: Ints
    bytes: Ints
    places: Places
    shortened: int = 0
    cut: int = 0

    @classmethod
    def blank(cls, form: str, conversations: Sequence[Record]) -> Scores:
        """Nothing scored yet."""
        texts = [user_turns(one["messages"]) for one in conversations]
        counts = [len(some) for some in texts]
        total = sum(counts)
        turn = [number for count in counts for number in range(1, count + 1)]
        size = [len(text.encode()) for some in texts for text in some]
        return cls(
            form, names_of(conversations), np.repeat(np.arange(len(texts)), counts),
            np.array(turn, np.int64), np.zeros(total), np.zeros(total, np.int64),
            np.array(size, np.int64), Places.of(conversations),
        )  # fmt: skip

    def by_conversation(self, values: Ints | Floats) -> Floats:
        """Sums of values by turn [t] for each conversation, [n]."""
        return np.bincount(self.owner, values, len(self.ids)).astype(np.float64)

    @property
    def perplexity(self) -> float:
        """exp of the mean loss of a token."""
        return float(np.exp(self.nats.sum() / self.tokens.sum()))

    def save(self, path: Path) -> None:
        """Write what was measured to a file, whole or not at all."""
        found: dict[str, Any] = {name: getattr(self, name) for name in ("nats", "tokens", "bytes")}
        for name in ("leaves", "probability"):
            if getattr(self.places, name) is not None:
                found[name] = getattr(self.places, name)
        out = io.BytesIO()
        np.savez_compressed(out, counts=np.array([self.shortened, self.cut]), **found)
        write_bytes(path, [out.getvalue()])

    def fill(self, path: Path) -> bool:
        """Take what `save` wrote of the same conversations; False where there is no such file, or
        a spoilt one."""
        try:
            with np.load(path, allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
            shortened, cut = found.pop("counts").tolist()
            sizes = {name: len(value) for name, value in found.items()}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return False
        turns = {name: sizes.pop(name, -1) for name in ("nats", "tokens", "bytes")}
        if {*turns.values()} != {len(self.owner)} or {*sizes.values()} - {len(self.places)}:
            return False
        self.nats, self.tokens, self.bytes = found["nats"], found["tokens"], found["bytes"]
        self.places.leaves, self.places.probability = found.get("leaves"), found.get("probability")
        self.shortened, self.cut = shortened, cut
        return True


def joined(parts: Sequence[Scores], conversations: Sequence[Record]) -> Scores:
    """One `Scores` of parts that stand in the conversations' order."""
    whole = Scores.blank(parts[0].form, conversations)
    for name in ("nats", "tokens", "bytes"):
        setattr(whole, name, np.concatenate([getattr(one, name) for one in parts]))
    for name in ("leaves", "probability"):
        some = [getattr(one.places, name) for one in parts]
        if some[0] is not None:
            setattr(whole.places, name, np.concatenate(some))
    whole.shortened = sum(one.shortened for one in parts)
    whole.cut = sum(one.cut for one in parts)
    return whole


def names_of(conversations: Sequence[Record]) -> list[str]:
    """The conversations' ids, each once: where one comes back it gets a number."""
    seen: dict[str, int] = {}
    names = []
    for one in conversations:
        name = str(one["id"])
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return names
