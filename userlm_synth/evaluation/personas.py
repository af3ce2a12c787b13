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

from userlm_synth.estimates import Units
from userlm_synth.evaluation.perplexity import gap, word_units
from userlm_synth.evaluation.scoring import Model, score
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
    batch_tokens, samples = settings.batch_tokens, settings.bootstrap
    general = word_units(score(model, list(chosen.values()), "chat", True, batch_tokens))
    found: dict[str, Record] = {}
    for name, both in sides.items():
        some = {one["id"]: one for people in both.values() for one in people}
        shown = copy(model)
        shown.fingerprint = name
        with attached(model.model, adapters / name):
            adapted = word_units(score(shown, list(some.values()), "chat", True, batch_tokens))
        found[name] = {}
        for side, people in both.items():
            names = [one["id"] for one in people]
            pair = adapted.part(names), general.part(names)
            found[name][side] = _beside(*pair, samples, seed) if people else None
    return found


def _beside(adapted: Units, general: Units, samples: int, seed: int) -> Record:
    ratio = gap(adapted, general, samples=samples, seed=seed)
    perplexity = {"general": general.value, "adapter": adapted.value}
    return {"conversations": len(general.ids), **perplexity, **ratio}


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
