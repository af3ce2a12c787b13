"""How many user turns dialogues have: a distribution to aim at, and how far it was met."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from userlm_synth.errors import Problems, UserError
from userlm_synth.records import (
    Record,
    guess_schema,
    has_form,
    read_lines,
    record_problems,
    user_turns,
)

if TYPE_CHECKING:
    from userlm_synth.recipe import Generate

Counts = Mapping[int, float]


def turn_counts(records: Iterable[Record]) -> Counter[int]:
    """How many records have 1, 2, ... user turns."""
    return Counter(len(user_turns(record["messages"])) for record in records)


def read_turn_counts(path: Path) -> Counter[int]:
    """The same of a file of conversations or dialogues, one record in memory at a time."""
    counts = turn_counts(_talks(path))
    if not counts:
        raise UserError(f"{path}: is empty; it needs at least one conversation")
    return counts


def _talks(path: Path) -> Iterator[Record]:
    for line, record in read_lines(path):
        schema = guess_schema(record)
        if not has_form(record, schema):
            raise Problems(f"{path}:{line}: {what}" for what in record_problems(record, schema))
        if not record.get("messages"):
            raise UserError(f"{path}:{line}: messages: is missing; turns are counted in them")
        yield record


# ---- what to aim at --------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """Numbers of user turns, ascending, and the sums of their shares up to each."""

    numbers: tuple[int, ...]
    sums: tuple[float, ...]

    @classmethod
    def of(cls, shares: Counts) -> Target:
        """From a share (or count) of each number; they need not sum to 1."""
        there = sorted((number, share) for number, share in shares.items() if share > 0)
        return cls(tuple(n for n, _ in there), tuple(accumulate(share for _, share in there)))

    def pick(self, share: float) -> int:
        """The number at a share of the whole, from 0 to below 1."""
        place = bisect_right(self.sums, share * self.sums[-1])
        return self.numbers[min(place, len(self.numbers) - 1)]


def turn_target(settings: Generate) -> Target | None:
    """What `generate.turns` or `generate.turns_like` ask for; None where neither is there.

    Real conversations that are longer than `max_turns` count as ones of `max_turns`.
    """
    if settings.turns is not None and settings.turns_like is not None:
        raise UserError("generate.turns, generate.turns_like: give one of the two")
    if settings.turns_like is not None:
        capped: Counter[int] = Counter()
        for number, count in read_turn_counts(Path(settings.turns_like)).items():
            capped[min(number, settings.max_turns)] += count
        return Target.of(capped)
    if settings.turns is None:
        return None
    if problems := list(_share_problems(settings.turns, settings.max_turns)):
        raise Problems(problems)
    return Target.of({int(number): share for number, share in settings.turns.items()})


def _share_problems(turns: Mapping[str, float], most: int) -> Iterator[str]:
    for number, share in turns.items():
        if not (number.isascii() and number.isdigit() and int(number) >= 1):
            yield f"generate.turns: {number!r} is not a number of turns, 1 or more"
        elif int(number) > most:
            yield f"generate.turns: {number} is above generate.max_turns, which is {most}"
        if share < 0:
            yield f"generate.turns.{number}: {share:g} is below 0"
    if not any(share > 0 for share in turns.values()):
        yield "generate.turns: has no share above 0"


# ---- how far it was met ----------------------------------------------------------------------


def compare_turns(made: Counts, human: Counts) -> dict[str, Any]:
    """Two distributions of user turns: sizes, means, and how far apart they are.

    `total_variation` is half the sum of |p(k) - q(k)| over all k: the share of dialogues that
    would need another number of turns. `ks` is the Kolmogorov-Smirnov distance, the largest
    |P(k) - Q(k)| of the cumulative shares, and `ks_p` its two-sample p-value (`ks_p_value`).
    What cannot be said of no dialogues is None.
    """
    n, m = sum(made.values()), sum(human.values())
    found: dict[str, Any] = {
        "made": {"n": int(n), "mean": _mean(made)},
        "human": {"n": int(m), "mean": _mean(human)},
        "total_variation": None,
        "ks": None,
        "ks_p": None,
    }
    if n and m:
        gaps = [made.get(k, 0) / n - human.get(k, 0) / m for k in sorted({*made, *human})]
        found["total_variation"] = sum(map(abs, gaps)) / 2
        found["ks"] = max(map(abs, accumulate(gaps)))
        found["ks_p"] = ks_p_value(found["ks"], int(n), int(m))
    return found


def _mean(counts: Counts) -> float | None:
    n = sum(counts.values())
    return sum(k * count for k, count in counts.items()) / n if n else None


def ks_p_value(distance: float, n: int, m: int) -> float:
    """How often two samples of one distribution, of `n` and `m`, are as far apart or farther.

    Q(t) = 2 sum over j >= 1 of (-1)^(j-1) exp(-2 j^2 t^2), Kolmogorov's distribution, at
    t = (s + 0.12 + 0.11 / s) distance with s = sqrt(n m / (n + m)): Stephens (1970), as in Press
    et al., Numerical Recipes, 14.3.3. Numbers of turns have ties, for which it is conservative:
    the true p is smaller.
    """
    root = math.sqrt(n * m / (n + m))
    t = (root + 0.12 + 0.11 / root) * distance
    if t < 0.2:  # the sum converges slowly there, to 1 - 1e-12 and more
        return 1.0
    terms = (math.exp(-2 * (j * t) ** 2) for j in range(1, 101))
    total = sum(term if j % 2 == 0 else -term for j, term in enumerate(terms))
    return min(max(2 * total, 0.0), 1.0)


def turns_table(made: Counts, human: Counts, most: int = 10) -> str:
    """The two distributions for the terminal, in percent; what is above `most` in one line."""
    n, m = sum(made.values()), sum(human.values())
    if not (n and m):
        return "  user turns: nothing to compare"
    last = min(most, int(max({*made, *human})))
    lines = [f"  {'user turns':<12}{'dialogues':>10}{'people':>10}"]
    for k in range(1, last + 1):
        lines.append(f"  {k:<12}{made.get(k, 0) / n:>10.1%}{human.get(k, 0) / m:>10.1%}")
    over = [sum(count for k, count in one.items() if k > last) for one in (made, human)]
    if any(over):
        lines.append(f"  {f'over {last}':<12}{over[0] / n:>10.1%}{over[1] / m:>10.1%}")
    found = compare_turns(made, human)
    means = f"{found['made']['mean']:>10.2f}{found['human']['mean']:>10.2f}"
    lines.append(f"  {'mean':<12}{means}")
    lines.append(
        f"  {found['total_variation']:.1%} of the dialogues would need another number of turns; "
        f"Kolmogorov-Smirnov {found['ks']:.3f} (p = {found['ks_p']:.2g}, "
        f"n = {found['made']['n']:,} and {found['human']['n']:,})"
    )
    return "\n".join(lines)
