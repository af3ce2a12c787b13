"""What each adapter does for its own people, and to others: perplexity beside the general model's.

Held-out conversations are shown with the intent and persona that they have, as in training. Ratios
are of the adapter's perplexity to the general model's on the same conversations, below 1 where the
adapter is better.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path

import numpy as np

from userlm_synth.evaluation.figures import gap
from userlm_synth.evaluation.scoring import Model, Scores, score
from userlm_synth.recipe import Evaluate
from userlm_synth.records import Record
from userlm_synth.user_lm.adapters import attached

MOST = 200  # conversations of an adapter's own people, and as many of others


def compare_adapters(
    user_lm: str,
    adapters: Path,
    own: Mapping[str, Sequence[Record]],
    held_out: Sequence[Record],
    *,
    seed: int,
) -> dict[str, Record]:
    """For each adapter `adapters`/NAME of a user LM `own` and `others`, on held-out conversations
    of the people that it was made for (`own[NAME]`) and of all others; None where there are none.
    """
    settings = Evaluate()
    sides: dict[str, dict[str, list[Record]]] = {}
    for name, theirs in own.items():
        rng, ids = random.Random(f"personas {seed} {name}"), {one["id"] for one in theirs}
        others = [one for one in held_out if one["id"] not in ids]
        sides[name] = {
            side: rng.sample(people, min(MOST, len(people)))
            for side, people in (("own", list(theirs)), ("others", others))
        }
    chosen = {one["id"]: one for both in sides.values() for some in both.values() for one in some}
    if not chosen:
        return {name: {"own": None, "others": None} for name in own}
    model = Model(user_lm)
    place = {one: at for at, one in enumerate(chosen)}
    general = score(model, list(chosen.values()), "chat", True, settings.batch_tokens)
    found: dict[str, Record] = {}
    for name, both in sides.items():
        some = [one for people in both.values() for one in people]
        shown = copy(model)
        shown.fingerprint = name
        with attached(model.model, adapters / name):
            adapted = score(shown, some, "chat", True, settings.batch_tokens)
        found[name], start = {}, 0
        for side, people in both.items():
            own_places = range(start, start + len(people))
            start += len(people)
            pair = (
                _part(adapted, own_places), _part(general, [place[one["id"]] for one in people])
            )  # fmt: skip
            found[name][side] = _beside(*pair, settings.bootstrap, seed) if people else None
    return found


def _part(scores: Scores, places: Sequence[int]) -> Scores:
    """The words' losses of some of the conversations."""
    at = np.array(places, dtype=int)
    return Scores(scores.form, scores.nats[at], scores.tokens[at], scores.bytes[at], [], [], [], [])


def _beside(adapted: Scores, general: Scores, samples: int, seed: int) -> Record:
    ratio = gap(adapted, general, samples=samples, seed=seed)
    perplexity = {"general": _perplexity(general), "adapter": _perplexity(adapted)}
    return {"conversations": len(general.nats), **perplexity, **ratio}


def _perplexity(scores: Scores) -> float:
    return float(np.exp(scores.nats.sum() / scores.tokens.sum()))


def comparison_table(found: Mapping[str, Mapping[str, Record | None]]) -> str:
    """The comparison as aligned text, an adapter a line."""
    width = max(len("adapter"), *(len(name) for name in found))
    lines = [f"{'adapter':{width}}  {'its own people':^41}  {'others':^41}"]
    head = f"{'general':>8} {'adapter':>8}  ratio [95 %]        "
    lines += [f"{'':{width}}  {head:41}  {head}".rstrip()]
    for name, sides in found.items():
        lines.append(f"{name:{width}}  {_side(sides['own']):41}  {_side(sides['others'])}".rstrip())
    return "\n".join(lines)


def _side(one: Record | None) -> str:
    if one is None:
        return "no held-out conversations"
    low, high = one["interval"]
    ratio = f"{one['ratio']:5.2f} [{low:.2f}, {high:.2f}]"
    return f"{one['general']:8.2f} {one['adapter']:8.2f}  {ratio}"
