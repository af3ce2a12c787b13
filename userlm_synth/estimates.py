"""A figure with its 95 % interval, and the difference of two figures on the same units.

Every figure that is a ratio of sums over independent units (conversations, questions, texts) goes
through `Units`: means, shares, precision, recall, F1 (200 x hits / (said + real)) and perplexity
(exp of a ratio). Units are resampled with replacement (Efron 1979, percentile interval); two models
that met the same units are resampled together, since what is hard for one is hard for the other.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from userlm_synth.records import Record

Floats = npt.NDArray[np.float64]
BLOCK = 20_000_000  # drawn counts in memory at once


@dataclass(frozen=True, eq=False)
class Units:
    """`scale` x sum of `top` / sum of `bottom`, or exp of it; `ids` [n] name the units.

    `count` says how many things were measured where those are not the units themselves (places
    in conversations); it is the figure's n.
    """

    ids: Sequence[str]
    top: Floats
    bottom: Floats
    scale: float = 1.0
    exp: bool = False
    count: int | None = None

    @classmethod
    def means(cls, values: Mapping[str, float], scale: float = 1.0) -> Units:
        """The mean of one value a unit."""
        top = np.array(list(values.values()), dtype=np.float64)
        return cls(list(values), top, np.ones(len(top)), scale)

    @property
    def n(self) -> int:
        """How many things were measured."""
        return len(self.ids) if self.count is None else self.count

    def of(self, drawn: npt.NDArray[np.int64]) -> Floats:
        """The figure for each row of `drawn` [samples, n]: how often each unit was drawn."""
        bottom = drawn @ self.bottom
        ratio = np.divide(
            drawn @ self.top, bottom, out=np.full(len(drawn), np.nan), where=bottom > 0
        )
        return np.asarray(self.scale * (np.exp(ratio) if self.exp else ratio))

    @property
    def value(self) -> float:
        """The figure; a share of nothing is 0."""
        if not self.bottom.sum() > 0:
            return 0.0
        ratio = self.top.sum() / self.bottom.sum()
        return float(self.scale * (np.exp(ratio) if self.exp else ratio))

    def estimate(self, *, samples: int, seed: int) -> Record:
        """`value`, `interval` and `n`; without anything to divide by, all of it is 0."""
        values = np.concatenate([self.of(drawn) for drawn in _draws(len(self.ids), samples, seed)])
        values = values[np.isfinite(values)]
        low, high = np.percentile(values, [2.5, 97.5]) if len(values) else (self.value, self.value)
        return {"value": self.value, "interval": [float(low), float(high)], "n": self.n}

    def part(self, ids: Sequence[str]) -> Units:
        """The same figure over some of the units, in the order of `ids`."""
        place = {one: at for at, one in enumerate(self.ids)}
        at = np.array([place[one] for one in ids], dtype=np.int64)
        return Units(list(ids), self.top[at], self.bottom[at], self.scale, self.exp)

    def plain(self) -> Record:
        """As data, for a file; `Units.read` reads it."""
        top, bottom = ([float(x) for x in one] for one in (self.top, self.bottom))
        shape = {"scale": self.scale, "exp": self.exp, "count": self.count}
        return {"ids": list(self.ids), "top": top, "bottom": bottom, **shape}

    @classmethod
    def read(cls, data: Record) -> Units:
        """What `plain` gave."""
        top, bottom = (np.array(data[key], dtype=np.float64) for key in ("top", "bottom"))
        return cls(data["ids"], top, bottom, data["scale"], data["exp"], data["count"])


def difference(one: Units, other: Units, *, samples: int, seed: int) -> Record:
    """`one` minus `other` (for perplexities: their ratio), on the units that both have.

    `p` is twice the smaller share of resamples on one side of no difference, at least 1 / samples.
    """
    known = set(other.ids)
    shared = [name for name in one.ids if name in known]
    first, second = one.part(shared), other.part(shared)
    pairs = [(first.of(one), second.of(one)) for one in _draws(len(shared), samples, seed)]
    mine, theirs = (np.concatenate(side) for side in zip(*pairs, strict=True))
    if first.exp:
        value, values, none = first.value / second.value, mine / theirs, 1.0
    else:
        value, values, none = first.value - second.value, mine - theirs, 0.0
    values = values[np.isfinite(values)]
    low, high = np.percentile(values, [2.5, 97.5]) if len(values) else (value, value)
    sides = (
        min(float((values <= none).mean()), float((values >= none).mean())) if len(values) else 1
    )
    return {
        "kind": "ratio" if first.exp else "difference",
        "value": float(value),
        "interval": [float(low), float(high)],
        "p": min(1.0, max(2 * sides, 1 / samples)),
        "n": len(shared),
    }


def _draws(n: int, samples: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """How often each unit is drawn, [samples, n] in all, some rows at a time."""
    if n * samples <= BLOCK:
        yield _drawn(n, samples, seed)
        return
    rng, step = np.random.default_rng(seed), max(1, BLOCK // n)
    for start in range(0, samples, step):
        yield rng.multinomial(n, np.full(n, 1 / n), size=min(step, samples - start))


@functools.lru_cache(maxsize=4)  # most figures of a table are over the same number of units
def _drawn(n: int, samples: int, seed: int) -> npt.NDArray[np.int64]:
    if not n:
        return np.zeros((samples, 0), dtype=np.int64)
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=samples)
