"""What the training sets know of the test: whole conversations, openings, turns, goals.

A conversation of the test that was trained on makes the experiment worthless and is refused. Short
turns ("Anything else?") come up again by themselves, and so do short openings: those are counted.
"""

from __future__ import annotations

from collections.abc import Sequence

from userlm_synth.errors import UserError
from userlm_synth.progress import say
from userlm_synth.records import Record, stable_hash
from userlm_synth.utility.scoring import assistant_turns


def content_hash(conversation: Record) -> str:
    """Of the messages alone, whatever the conversation is called."""
    return stable_hash([[one["role"], one["content"]] for one in conversation["messages"]])


def without_leaks(
    test: Sequence[Record], sets: dict[str, Sequence[Record]], drop: bool
) -> list[Record]:
    """The test conversations that are in none of the training sets, message for message.

    `UserError` where some are, unless they are to be dropped.
    """
    hashes = [content_hash(one) for one in test]
    leaked: dict[int, str] = {}
    for name, conversations in sets.items():
        known = {content_hash(one) for one in conversations}
        leaked |= {at: name for at, one in enumerate(hashes) if one in known}
    if leaked and not drop:
        some = ", ".join(f"{test[at]['id']} (in {name})" for at, name in list(leaked.items())[:3])
        raise UserError(
            f"{len(leaked):,} of the {len(test):,} test conversations are also trained on, message "
            f"for message: {some}; hold others out, or leave these out with --drop-leaks"
        )
    if leaked:
        say(f"{len(leaked):,} test conversations are trained on too, and left out of the test")
    return [one for at, one in enumerate(test) if at not in leaked]


def near_leaks(test: Sequence[Record], conversations: Sequence[Record]) -> Record:
    """How much of the test comes up in a training set: `turns`, the assistant turns of the test
    that an assistant says there word for word; `openings`, first user turns with their replies;
    `goals`, conversations of the set that are made from the intent of a test conversation."""
    said = {turn for one in conversations for turn in assistant_turns(one)}
    opened = {_opening(one) for one in conversations}
    goals = {(one["id"], one["intent"]) for one in test}
    return {
        "turns": sum(turn in said for one in test for turn in assistant_turns(one)),
        "openings": sum(_opening(one) in opened for one in test if len(one["messages"]) > 1),
        "goals": sum((one.get("intent_id"), one["intent"]) in goals for one in conversations),
    }


def _opening(conversation: Record) -> tuple[str, ...]:
    return tuple(one["content"] for one in conversation["messages"][:2])
