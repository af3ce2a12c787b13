"""Templates, writing styles and the reading of topic files.

A template is a sentence with placeholders: ``{food}`` stands for the name of the value chosen for
the slot ``food``, ``{food.time}`` for that value's attribute ``time``.  Users' sentences are
written once, in plain English, and rewritten here in the style of the user who says them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Container
from importlib import resources
from random import Random
from typing import Any

import yaml

Goal = dict[str, Any]
Values = dict[str, dict[str, str]]

#: Every twelfth user has the same style, so a user's style never depends on the seed.
STYLE_CYCLE = (
    "plain", "lowercase", "terse", "polite", "typos", "lowercase",
    "plain", "chatty", "lowercase", "terse", "typos", "plain",
)  # fmt: skip

#: What a user of each style may say before a question: (share of questions, sentences).
REACTIONS: dict[str, tuple[float, tuple[str, ...]]] = {
    "plain": (0.25, ("Ok.", "Got it.", "Good to know.", "Makes sense.")),
    "lowercase": (0.25, ("Ok.", "I see.", "Got it.", "Good to know.")),
    "terse": (0.1, ("Ok.",)),
    "polite": (0.5, ("Thank you.", "Thanks, that helps.", "That is helpful, thanks.")),
    "typos": (0.25, ("Ok.", "Got it.", "Makes sense.")),
    "chatty": (0.6, ("Oh ok!", "Oh wow!", "Oh good to know!", "Ah got it!")),
}

#: What a user of each style may say before the first request.
GREETINGS: dict[str, tuple[float, tuple[str, ...]]] = {
    "plain": (0.15, ("Hi.", "Hello.")),
    "lowercase": (0.15, ("Hi.", "Hey.")),
    "terse": (0.0, ("Hi.",)),
    "polite": (0.8, ("Hi!", "Hello!", "Good day!")),
    "typos": (0.15, ("Hi.", "Hey.")),
    "chatty": (0.6, ("Hey!", "Hi there!", "Heyy!")),
}

#: How a user of each style ends a conversation: (share of conversations, sentences).
CLOSINGS: dict[str, tuple[float, tuple[str, ...]]] = {
    "plain": (0.42, ("Thanks, that's perfect.", "Great, thank you.", "That's all I needed.")),
    "lowercase": (0.42, ("Thanks, that's perfect.", "Great, thanks.", "Perfect, thanks.")),
    "terse": (0.2, ("Thanks.", "Ok thanks.", "Great, thanks.")),
    "polite": (0.75, ("Thank you so much!", "Thank you for your help!", "Thanks, very kind.")),
    "typos": (
        0.42,
        ("Great, thanks.", "Thanks, that's really great.", "That definitely helps."),
    ),
    "chatty": (0.5, ("Awesome, thank you!", "Oh perfect, thanks haha!", "Yay, thanks!")),
}

#: The only misspellings that ever occur.
TYPOS = {
    "because": "becuase", "can't": "cant", "definitely": "definately", "doesn't": "doesnt",
    "don't": "dont", "i'll": "ill", "i'm": "im", "isn't": "isnt", "it's": "its",
    "really": "realy", "recipe": "recipie", "should": "shoud", "thanks": "thnaks",
    "that's": "thats", "the": "teh", "tomorrow": "tommorow", "what's": "whats",
    "which": "wich", "with": "wiht", "won't": "wont",
}  # fmt: skip
_TYPO_SHARE = 0.3

_QUESTION = "how|what|where|when|which one"
_TERSE_RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (rf"\b({_QUESTION}) (?:should|do|can) i (?!need|have)", r"\1 to "),
        (r"\bhow (often|much|long) (?:should|do|can) i (?!need|have)", r"how \1 to "),
        (r"(^|[.,!?] )do i need\b", r"\1need"),
        (r"(^|[.,!?] )what(?:'s| is) (?=a |the )", r"\1"),
        (r"(^|[.,!?] )(?:can|could) you ", r"\1"),
        (r"(^|[.,!?] )is it (ok|fine|safe|bad)\b", r"\1\2"),
        (r"(^|[.,!?] )i(?:'m| am) ", r"\1"),
        (r"(^|[.,!?] )i (?=want|need|have|got|would)", r"\1"),
        (r"\b(?:the|an?) (?!lot|bit|few|little|while|day|week|month|time|hour|year|same)", ""),
    )
)


@functools.cache  # YAML takes a second; nobody changes what is shared
def load_goals() -> list[Goal]:
    """Read all goals of all topic files, in the order of the files' names."""
    folder = resources.files("userlm_synth.world") / "topics"
    goals: list[Goal] = []
    for path in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if not path.name.endswith(".yaml"):
            continue
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        for goal in data["goals"]:
            slots = {
                slot: [{"name": value} if isinstance(value, str) else value for value in values]
                for slot, values in goal["slots"].items()
            }
            goals.append({**goal, "topic": data["topic"], "slots": slots})
    return goals


def fill(
    template: str, values: Values, *, addressed: bool = False, definite: Container[str] = ()
) -> str:
    """Put the chosen values into a template and capitalise the sentences' first letters.

    Values are named as the user would name them; text ``addressed`` to the user turns "my mom"
    into "your mom".  The slots that are ``definite`` have been talked about, so that "a garage"
    becomes "the garage".
    """

    def replace(match: re.Match[str]) -> str:
        value = values[match[1]][match[2] or "name"]
        if addressed:
            value = re.sub(r"\bmy\b", "your", value)
            value = re.sub(r"\bme\b", "you", value)
        if match[1] in definite and not match[2]:
            value = re.sub(r"^an? ", "the ", value)
        return value

    text = re.sub(r"\{(\w+)(?:\.(\w+))?\}", replace, template)
    return re.sub(r"(^|[.!?] \"?)([a-z])", lambda match: match[1] + match[2].upper(), text)


def maybe(table: dict[str, tuple[float, tuple[str, ...]]], style: str, rng: Random) -> str:
    """One of the style's sentences followed by a blank, or nothing."""
    share, sentences = table[style]
    return rng.choice(sentences) + " " if rng.random() < share else ""


def restyle(text: str, style: str, rng: Random) -> str:
    """Rewrite a user's plain sentence in the user's style."""
    if style == "lowercase":
        return _loosen(text.lower(), keep_question_mark=rng.random() < 0.4)
    if style == "terse":
        text = text.lower()
        for pattern, replacement in _TERSE_RULES:
            text = pattern.sub(replacement, text)
        return _loosen(text, keep_question_mark=rng.random() < 0.5)
    if style == "typos":
        return re.sub(r"[A-Za-z']+", lambda match: _misspell(match[0], rng), text).rstrip(".")
    if style == "chatty" and rng.random() < 0.2:
        return text.rstrip(".!?") + rng.choice((" lol", " haha"))
    return text


def _loosen(text: str, *, keep_question_mark: bool) -> str:
    """Join sentences with commas and drop the closing mark, as people do in a hurry."""
    text = text.replace(". ", ", ").replace("! ", " ").rstrip(".!")
    return text if keep_question_mark else text.rstrip("?")


def _misspell(word: str, rng: Random) -> str:
    """Misspell a word of the fixed list now and then, keeping its capital letter."""
    wrong = TYPOS.get(word.lower())
    if wrong is None or rng.random() >= _TYPO_SHARE:
        return word
    return wrong.capitalize() if word[0].isupper() else wrong
