"""How much of the intent the user's turns repeat (Table 2 of the paper, metric 2; Figure 5).

The simulator writes each of the user's turns after the human ones before it, with the end
forbidden; people are measured on the turns that they wrote in the same conversations. The overlap
of a turn with the intent is averaged over all turns; the paper does not say what the shared words
are divided by, so all three shares are there. Cumulative: the words of turns 1 to t together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from userlm_synth.estimates import Units
from userlm_synth.evaluation.first_turns import SHARES, overlap, place_id
from userlm_synth.evaluation.kept import Turn
from userlm_synth.evaluation.sampling import Place
from userlm_synth.records import Record, user_turns
from userlm_synth.user_lm.render import system_text


def decomposition_places(conversations: Sequence[Record]) -> list[Place]:
    """Every place where a user spoke in these conversations."""
    return [
        Place(place_id(one, number), system_text(one), tuple(one["messages"][:at]))
        for one in conversations
        for number, at in enumerate(_at(one), 1)
    ]


def sampled_turns(
    conversations: Sequence[Record], turns: Mapping[str, Turn]
) -> dict[str, list[str]]:
    """What a simulator said at `decomposition_places`, by conversation."""
    return {
        one["id"]: [turns[place_id(one, number)].text for number, _ in enumerate(_at(one), 1)]
        for one in conversations
    }


def human_turns(conversations: Sequence[Record]) -> dict[str, list[str]]:
    """What people said there."""
    return {one["id"]: user_turns(one["messages"]) for one in conversations}


def decomposition_figures(
    conversations: Sequence[Record],
    texts: Mapping[str, Sequence[str]],
    *,
    samples: int,
    seed: int,
) -> tuple[Record | None, dict[str, Units]]:
    """`intent_decomposition`: the mean overlap of a turn with the intent, resampled by
    conversation, with n turns; and by turn the overlap of all turns up to it, with n
    conversations. None without conversations.
    """
    if not conversations:
        return None, {}
    options = {"samples": samples, "seed": seed}
    intents = {one["id"]: one["intent"] for one in conversations}
    single = {
        key: [overlap([turn], intent) for turn in texts[key]] for key, intent in intents.items()
    }
    units = {f"intent_decomposition.{name}": _units(single, name) for name in SHARES}
    record: Record = {
        name: units[f"intent_decomposition.{name}"].estimate(**options) for name in SHARES
    }
    record["cumulative"] = []
    for last in range(1, max(len(texts[key]) for key in intents) + 1):
        so_far = {
            key: overlap(texts[key][:last], intent)
            for key, intent in intents.items()
            if len(texts[key]) >= last
        }
        shares = {
            name: Units.means({key: found[name] for key, found in so_far.items()})
            for name in SHARES
        }
        estimates = {name: one.estimate(**options) for name, one in shares.items()}
        record["cumulative"].append({"turn": last, **estimates})
    return record, units


def _units(single: Mapping[str, Sequence[Mapping[str, float]]], name: str) -> Units:
    """One unit a conversation: the sum over its turns, and how many there are."""
    top = np.array([sum(turn[name] for turn in turns) for turns in single.values()])
    bottom = np.array([len(turns) for turns in single.values()], dtype=np.float64)
    return Units(list(single), top, bottom, count=int(bottom.sum()))


def _at(conversation: Record) -> list[int]:
    """Where in its messages the user's turns stand."""
    return [at for at, turn in enumerate(conversation["messages"]) if turn["role"] == "user"]
