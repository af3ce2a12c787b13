"""A small world of everyday conversations between casual users and an assistant.

The topics are data (``topics/*.yaml``); this module puts them together.  A conversation belongs to
a goal.  The user opens, the assistant asks for whatever it has not been told, answers, and the
user asks some of the goal's follow-up questions, in their order, before leaving.  Everything the
assistant says follows from the messages; everything the user says follows from the intent, the
messages and the user's style.
"""

from __future__ import annotations

from random import Random
from typing import Any

from userlm_synth.world.grammar import (
    CLOSINGS,
    GREETINGS,
    REACTIONS,
    STYLE_CYCLE,
    Goal,
    Values,
    fill,
    load_goals,
    maybe,
    restyle,
)

__all__ = ["make_conversations"]

INTENT_START = "You are a user chatting with an assistant language model to "
USERS = 240
#: Weights of one to six user turns, for ordinary goals and for those one answer settles.
TURN_WEIGHTS = (11, 21, 26, 21, 13, 9)
QUICK_TURN_WEIGHTS = (40, 36, 18, 6, 0, 0)
VAGUE_SHARE = 0.2
CLARIFY_SHARE = 0.5
FULL_SHARE = 0.4
LAST_QUESTION_SHARE = 0.4
LAST_QUESTION = ("One last question.", "Last thing.")
GOODBYES = ("You're welcome!", "Glad I could help!", "Happy to help!")


class _Script:
    """One conversation in the making."""

    def __init__(self, goal: Goal, values: Values, style: str, rng: Random) -> None:
        self.goal = goal
        self.values = values
        self.style = style
        self.rng = rng
        self.messages: list[dict[str, str]] = []
        self.definite = set(values) - set(goal.get("generic", ()))

    def exchange(self, asks: list[str], answers: list[str], prefix: str = "") -> None:
        """Append a user turn and the assistant's answer to it."""
        ask = prefix + fill(self.rng.choice(asks), self.values)
        self.messages.append({"role": "user", "content": restyle(ask, self.style, self.rng)})
        answer = fill(self.rng.choice(answers), self.values, addressed=True, definite=self.definite)
        self.messages.append({"role": "assistant", "content": answer})

    def write(self, turns: int) -> None:
        """Write a conversation of at most ``turns`` user turns."""
        goal, rng = self.goal, self.rng
        left = turns - 1
        closing = left > 0 and rng.random() < CLOSINGS[self.style][0]
        left -= closing
        left -= self._open(left)
        pool = goal["followups"]
        picked = sorted(rng.sample(range(len(pool)), min(left, len(pool))))
        for position, index in enumerate(picked):
            prefix = maybe(REACTIONS, self.style, rng)
            if 0 < position == len(picked) - 1 and rng.random() < LAST_QUESTION_SHARE:
                prefix = rng.choice(LAST_QUESTION) + " "
            self.exchange(pool[index]["q"], pool[index]["a"], prefix)
        if closing:
            own = rng.random() < 0.4 and self.style != "terse"
            asks = goal["leave"] if own else list(CLOSINGS[self.style][1])
            self.exchange(asks, [f"{goodbye} {goal['wish']}" for goodbye in GOODBYES])

    def _open(self, left: int) -> int:
        """Write everything up to the main answer; return how many further turns it took."""
        goal, rng = self.goal, self.rng
        clarify: dict[str, Any] = goal.get("clarify", {})
        full = "full" in clarify  # the intent says what would be asked
        greeting = maybe(GREETINGS, self.style, rng)
        if full and (left == 0 or rng.random() < FULL_SHARE):
            self.exchange(clarify["full"], clarify["answers"], greeting)
            return 0
        asked = bool(clarify) and left > 0 and (full or rng.random() < CLARIFY_SHARE)
        vague = left > asked and rng.random() < VAGUE_SHARE
        reply = clarify["ask"] if asked else goal["answers"]
        if vague:
            self.exchange(goal["vague"], goal["ask"], greeting)
            self.exchange(goal["tell"], reply)
        else:
            self.exchange(goal["openings"], reply, greeting)
        if asked:
            self.exchange(clarify["tell"], clarify["answers"])
        return int(asked) + int(vague)


def make_conversations(count: int = 3000, seed: int = 0) -> list[dict[str, Any]]:
    """Make ``count`` conversations; the same arguments always give the same list.

    All goals and all values of their first slots occur equally often.  A few of the 240 users
    have many conversations and most have few; a user's style never changes.
    """
    rng = Random(seed)
    goals = load_goals()
    user_weights = [1 / (30 + number) for number in range(USERS)]
    deck: list[tuple[Goal, dict[str, str]]] = []
    seen: set[str] = set()
    records: list[dict[str, Any]] = []
    while len(records) < count:
        if not deck:
            deck = [(goal, value) for goal in goals for value in _first_slot(goal)]
            rng.shuffle(deck)
        goal, first = deck.pop()
        values = {slot: rng.choice(choices) for slot, choices in goal["slots"].items()}
        values[next(iter(values))] = first
        user = rng.choices(range(USERS), weights=user_weights)[0]
        style = STYLE_CYCLE[user % len(STYLE_CYCLE)]
        weights = QUICK_TURN_WEIGHTS if goal.get("quick") else TURN_WEIGHTS
        turns = rng.choices(range(1, 7), weights=weights)[0]
        for _ in range(10):  # write again what has been written before
            script = _Script(goal, values, style, rng)
            script.write(turns)
            key = "\n".join(message["content"] for message in script.messages)
            if key not in seen:
                break
        seen.add(key)
        intent = _plain(rng.choice(goal["intents"]), values)
        records.append(
            {
                "id": f"quickstart-{len(records):06d}",
                "source": "quickstart",
                "user_id": f"user-{user:03d}",
                "language": "en",
                "intent": f"{INTENT_START}{intent}.",
                "persona": None,
                "messages": script.messages,
                "metadata": {"topic": goal["topic"], "goal": goal["name"], "style": style},
            }
        )
    return records


def _first_slot(goal: Goal) -> list[dict[str, str]]:
    """The values of a goal's first slot."""
    choices: list[dict[str, str]] = next(iter(goal["slots"].values()))
    return choices


def _plain(phrase: str, values: Values) -> str:
    """Fill a phrase that goes on inside a sentence, without a capital letter."""
    return fill("x" + phrase, values, addressed=True)[1:]
