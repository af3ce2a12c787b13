"""Who leaves where, of a model that was scored and of one that can only be asked.

A user LM in process is scored: it leaves where the end token is its most likely first token. Any
other simulator is asked at each place, decoded greedily: it leaves where it says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from userlm_synth.estimates import Units
from userlm_synth.evaluation.kept import Turn
from userlm_synth.evaluation.sampling import Place
from userlm_synth.evaluation.scores import Places, Scores
from userlm_synth.evaluation.termination import termination, with_replies
from userlm_synth.records import Record
from userlm_synth.user_lm.render import system_text

LEAVING = ("termination",)
NONE_LOOKED_AT = "evaluate.termination is 0"


def leaving_places(conversations: Sequence[Record]) -> list[Place]:
    """Every place after the first turn, to be asked greedily whether the user leaves."""
    places = Places.of(conversations)
    return [
        Place(
            _name(conversations[owner], turn),
            system_text(conversations[owner]),
            conversations[owner]["messages"][: 2 * (turn - 1)],
            may_end=True,
            greedy=True,
        )
        for owner, turn in zip(places.owner.tolist(), places.turn.tolist(), strict=True)
    ]


def _name(conversation: Record, turn: int) -> str:
    return f"leaving before turn {turn} of {conversation['id']}"


def scored_leaving(
    conversations: Sequence[Record], scores: Mapping[bool, Sequence[Scores]], *, samples: int,
    seed: int,
) -> tuple[Record | str, dict[str, Units]]:  # fmt: skip
    """The figures from scores, which may be of more conversations than these."""
    if not conversations:
        return NONE_LOOKED_AT, {}
    best = scores[max(scores)][0]
    ids = [str(one["id"]) for one in conversations]
    return termination(_of(best, ids), best.ids, by="probability", samples=samples, seed=seed)


def greedy_leaving(
    conversations: Sequence[Record], turns: Mapping[str, Turn],
    scores: Mapping[bool, Sequence[Scores]], *, samples: int, seed: int,
) -> tuple[Record | str, dict[str, Units]]:  # fmt: skip
    """The figures from what a simulator said at `leaving_places`; how likely it was to leave comes
    from its scores, else from its server, where that tells at every place."""
    if not conversations:
        return NONE_LOOKED_AT, {}
    ids = [str(one["id"]) for one in conversations]
    asked = Places.of(conversations)
    said = [turns[place.id] for place in leaving_places(conversations)]
    other = None
    if scores:
        other = _of(scores[max(scores)][0], ids)
    elif all(turn.end_probability is not None for turn in said):
        other = replace(asked, probability=np.array([turn.end_probability for turn in said], float))
    places = with_replies(asked, [turn.left for turn in said], other)
    return termination(places, ids, by="greedy", samples=samples, seed=seed)


def _of(scores: Scores, ids: Sequence[str]) -> Places:
    """The places of some conversations, in the order of the scores."""
    wanted, places = set(ids), scores.places
    at = np.array([scores.ids[owner] in wanted for owner in places.owner], dtype=bool)
    return Places(
        places.owner[at], places.turn[at], places.ended[at],
        None if places.leaves is None else places.leaves[at],
        None if places.probability is None else places.probability[at],
    )  # fmt: skip
