"""First turns beside the intent that they follow (Table 2 of the paper, metrics 1 and 2).

Every row of a table is measured on the same conversations: simulators by a first turn sampled from
each intent, with the end forbidden, and people by the first turns that they wrote.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from userlm_synth import metrics
from userlm_synth.estimates import Units
from userlm_synth.evaluation.kept import Turn
from userlm_synth.evaluation.sampling import Place
from userlm_synth.records import Record, stable_hash, user_turns
from userlm_synth.user_lm.render import system_text

SHARES = ("of_turn", "of_intent", "jaccard")


def with_intent(
    conversations: Sequence[Record], most: int, *, seed: int, what: str
) -> list[Record]:
    """At most that many conversations that have an intent, drawn by the seed, in their order."""
    known = [one for one in conversations if one["intent"]]
    if len(known) <= most:
        return known
    chosen = random.Random(stable_hash(seed, what)).sample(range(len(known)), most)
    return [known[at] for at in sorted(chosen)]


def first_turn_places(conversations: Sequence[Record]) -> list[Place]:
    """Where simulators open these conversations."""
    return [Place(place_id(one), system_text(one)) for one in conversations]


def sampled_first_turns(
    conversations: Sequence[Record], turns: Mapping[str, Turn]
) -> dict[str, str]:
    """What a simulator said at `first_turn_places`, by conversation."""
    return {one["id"]: turns[place_id(one)].text for one in conversations}


def human_first_turns(conversations: Sequence[Record]) -> dict[str, str]:
    """What people said there."""
    return {one["id"]: user_turns(one["messages"])[0] for one in conversations}


def first_turn_figures(
    conversations: Sequence[Record], texts: Mapping[str, str], *, samples: int, seed: int
) -> tuple[Record, dict[str, Units]]:
    """`first_turn_diversity` (None for fewer than two texts) and `first_turn_overlap` (None for
    none) of the first turns of these conversations.
    """
    overlaps = {one["id"]: overlap([texts[one["id"]]], one["intent"]) for one in conversations}
    units = {
        f"first_turn_overlap.{name}": Units.means(
            {key: shares[name] for key, shares in overlaps.items()}
        )
        for name in SHARES
    }
    options = {"samples": samples, "seed": seed}
    found: Record = {"first_turn_diversity": None, "first_turn_overlap": None}
    if len(overlaps) > 1:
        chosen = [texts[one["id"]] for one in conversations]
        found["first_turn_diversity"] = metrics.diversity_estimate(chosen, **options)
    if overlaps:
        found["first_turn_overlap"] = {
            name.rpartition(".")[2]: one.estimate(**options) for name, one in units.items()
        }
    return found, units if overlaps else {}


def overlap(turns: Sequence[str], intent: str) -> dict[str, float]:
    """`metrics.intent_overlap` of all words of some turns and the words of an intent."""
    spoken = [word for turn in turns for word in metrics.words(turn)]
    return metrics.intent_overlap(spoken, metrics.words(intent))


def place_id(conversation: Record, number: int = 1) -> str:
    """The name of the place of a user's turn; a first turn is sampled once for all figures."""
    return f"turn {number} of {conversation['id']}"
