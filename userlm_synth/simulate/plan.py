"""Which dialogues are held: the n-th one, from its place alone, in no more memory than one.

Repetitions come one after the other, and in each the intents in turn. A dialogue's id, seed,
slice, persona and number of turns derive from what it is (run seed, slice, persona, intent id,
repetition), so a larger number extends a smaller one, and none depends on order, concurrency or
the other intents.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from userlm_synth.errors import Problems
from userlm_synth.records import Record, stable_hash
from userlm_synth.simulate.intents_file import IntentsFile, PersonasFile
from userlm_synth.simulate.turns import turn_target

if TYPE_CHECKING:
    from userlm_synth.recipe import Generate

MAIN = "main"  # the slice's name in a dialogue's hash where there are none
UNEVEN = "weights differ, but generate.combine: cross meets all equally often"


@dataclass(frozen=True)
class Planned:
    """A dialogue before it is held. `turns`: the user leaves after so many, where it is set."""

    place: int
    id: str
    seed: int
    intent_id: str
    intent: str
    persona: str | None
    persona_id: str | None
    slice: str | None
    metadata: Record
    turns: int | None


@dataclass(frozen=True)
class Share:
    """A slice's part of the plan; `name` is None where there are no slices."""

    name: str | None
    weight: float
    personas: PersonasFile | None

    @property
    def cells(self) -> int:
        """How often an intent meets it, where everything is crossed."""
        return len(self.personas) if self.personas else 1


class Plan:
    """Every dialogue of a run by its place, 0 and up without an end; `cycle` make a repetition."""

    def __init__(
        self, intents: IntentsFile | Sequence[Record], settings: Generate, seed: int
    ) -> None:
        self.intents, self.seed = intents, seed
        self.cross = settings.combine == "cross"
        self.shares = _shares(settings)
        if self.cross and (problems := list(_uneven(self.shares))):
            raise Problems(problems)
        self.target = turn_target(settings)
        self.sums = list(accumulate(share.weight for share in self.shares))
        self.cells = sum(share.cells for share in self.shares) if self.cross else 1
        self.cycle = len(intents) * self.cells

    def at(self, place: int) -> Planned:
        """The dialogue at a place."""
        repetition, rest = divmod(place, self.cycle)
        turn, index = divmod(rest, len(self.intents))
        one = self.intents[index]
        if self.cross:  # the intents begin at different cells, so that few dialogues show all
            share, person = self._cell((turn + index) % self.cells)
        else:
            share, person = self._draw(one["id"], repetition)
        text = person["persona"] if person else one.get("persona")
        person_id = person["id"] if person else None
        digest = stable_hash(
            self.seed, share.name or MAIN, person_id or text, one["id"], repetition
        )
        made = {"slice": share.name, "persona_id": person_id}
        return Planned(
            place=place,
            id=f"dlg-{digest[:20]}",
            seed=int(digest[20:35], 16),
            intent_id=str(one["id"]),
            intent=one["intent"],
            persona=text,
            persona_id=person_id,
            slice=share.name,
            metadata={"repetition": repetition, **{k: v for k, v in made.items() if v is not None}},
            turns=self.target.pick(_unit("turns", digest)) if self.target else None,
        )

    def _draw(self, intent_id: str, repetition: int) -> tuple[Share, Record | None]:
        """A slice by weight and a persona of it, for this intent and repetition."""
        draw = _unit(self.seed, "slice", intent_id, repetition) * self.sums[-1]
        share = self.shares[min(bisect_right(self.sums, draw), len(self.shares) - 1)]
        if share.personas is None:
            return share, None
        return share, share.personas.pick(_unit(self.seed, "persona", intent_id, repetition))

    def _cell(self, number: int) -> tuple[Share, Record | None]:
        """The slice and persona of a cell."""
        for share in self.shares:
            if number < share.cells:
                return share, share.personas[number] if share.personas else None
            number -= share.cells
        raise IndexError(number)

    def close(self) -> None:
        """Close the files of personas."""
        for share in self.shares:
            if share.personas:
                share.personas.close()


def _unit(*parts: object) -> float:
    """A number from 0 to below 1, drawn by a hash (52 bits)."""
    return int(stable_hash(*parts)[:13], 16) / 16**13


def _shares(settings: Generate) -> list[Share]:
    """The slices in the order of their names; each file of personas is opened once."""
    opened: dict[str, PersonasFile] = {}

    def people(path: str | None) -> PersonasFile | None:
        if path is not None and path not in opened:
            opened[path] = PersonasFile(Path(path))
        return opened[path] if path is not None else None

    if not settings.slices:
        return [Share(None, 1.0, people(settings.personas))]
    return [
        Share(name, one.weight, people(one.personas or settings.personas))
        for name, one in sorted(settings.slices.items())
    ]


def _uneven(shares: Sequence[Share]) -> Iterator[str]:
    """Weights that a crossing cannot keep."""
    if len({share.weight for share in shares}) > 1:
        yield f"generate.slices: {UNEVEN}"
    files = (share.personas for share in shares if share.personas)
    for path in sorted({str(file.path) for file in files if not file.equal}):
        yield f"{path}: {UNEVEN}"
