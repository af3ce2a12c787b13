"""Where a user's turn is no longer a user's: it answers as an assistant would, or it goes on into
the assistant's turn.

Both look for what people hardly ever write to an assistant, so that they seldom refuse what is
right and miss much of what is wrong: `benchmarks/guardrails.py` counts both. The phrases are
English.
"""

from __future__ import annotations

import re

_COUNT = r"(?:some|several|a few|\d+|two|three|four|five|six|seven|eight|nine|ten)\b"
_NEW = r"(?:top|best|revised|updated|corrected|rewritten|translated|full|complete|python)\b"
_HERE = r"here(?:'s| is| are) "
_GLAD = r"(?:happy|glad|delighted|pleased)"
_MORE = r"(?:any )?(?:other |further |more |additional )?"
_AI = r"(?:ai|artificial intelligence|(?:large )?language model|virtual assistant|chatbot)\b"

# The first words of an answer. "Sure, here is my order" is a customer's: what is offered (a list,
# an example) tells, not what is handed over.
OPENING = re.compile(
    "|".join(
        (
            r"(?:sure|certainly|of course|absolutely|definitely)(?: thing)?[!,.:]*\s+(?:"
            rf"{_HERE}(?:{_COUNT}|an?\b|the {_NEW})"
            rf"|i(?:'d| would) be {_GLAD} to"
            r"|i(?: can|'ll| will) (?:certainly |definitely )?(?:help|assist|explain|provide)\b"
            r"|let me (?:help|assist|explain)\b)",
            r"certainly!",
            r"you(?:'re| are) (?:very |most |so )?welcome\b",
            r"thank you for (?:your question|reaching out|contacting)\b",
            rf"{_HERE}(?:{_COUNT}|the (?:top|key|steps)\b)[^\n]{{0,150}}:\s*\n\s*(?:[-*•]|1[.)])",
        )
    )
)

# What only an assistant says of itself, and what it offers, anywhere in a turn.
PHRASES = re.compile(
    "|".join(
        (
            r"\bas an? (?:[a-z-]+ ){0,3}(?:ai|artificial intelligence|language model)"
            r"(?: language model| assistant| model| chatbot| system)*,? "
            r"(?:i|i'm|it is|it's|my|there are)\b",
            rf"\bi(?:'m| am) (?:just |only |merely )?an? {_AI}",
            rf"\bi(?:'m| am) {_GLAD} (?:i could|to) (?:help|assist|be of (?:help|assistance))\b",
            rf"\bi(?:'m|'d be| am| would be) (?:always |more than |very )?(?:here|{_GLAD}) to "
            r"(?:help|assist)(?: you\b| further\b| with (?:that|this|your|any)\b|\s*[.!,]|\s*$)",
            r"\bhow (?:can|may) i (?:help|assist) you\b[^.?!\n]{0,60}[?!.]",
            r"\banything else (?:that )?i can (?:help|assist|do for)\b",
            r"\b(?:let me know|feel free to (?:ask|reach out)|don't hesitate to "
            r"(?:ask|reach out|contact))(?: me)? if (?:"
            rf"you have {_MORE}questions|you need {_MORE}(?:help|assistance)"
            r"|there(?:'s| is) anything else i)",
            r"\bi(?:'m sorry| am sorry| apologize),? but (?:as an ai\b|"
            r"(?:i (?:can't|cannot|am unable to|am not able to)|i'm (?:unable|not able) to) "
            r"(?:assist|help|provide|fulfill|comply|generate)\b)",
            r"\bi don't have (?:personal (?:opinions|beliefs|preferences|experiences|feelings|"
            r"emotions)|(?:access to )?real-time)\b",
            r"\bi hope (?:this|that) (?:helps|answers)\b",
        )
    )
)
#: Every phrase above has one of these; most turns have none, and are done with.
HINTS = (
    " ai", "artificial", "language model", "assist", "help", "chatbot", "anything else",
    "questions", "sorry", "apologize", "i don't have", "answers",
)  # fmt: skip

_ROLE = r"(?:AI(?: Assistant)?|A(?:ssistant|SSISTANT)|Chatbot|ChatGPT|H(?:uman|UMAN)|U(?:ser|SER))"
RUN_ON = re.compile(
    "|".join(
        (
            rf"(?:^|\n)\s*(?:\*\*)?{_ROLE}\s?(?:\*\*)?:",  # a line of a transcript
            r"(?:^|\n)(?:assistant|ai|bot|human|user):",
            r"(?:^|\n)#{2,4} ?(?:Response|Assistant|Instruction|Human|User)\b",
            r"[.?!\"')]\s*(?:Assistant|AI|Human|User):\s",
            # what is left of a header where a server takes the special tokens out of it
            r"(?:^|[\n.?!\"')])(?:assistant|user)(?:\n|$)",
            r"\Bassistant\n",
            # and a header whose tokens are spelled
            r"(?:\|>|<start_of_turn>|<s>)\s*(?:assistant|user|system|model)\b|\[/INST\]",
        )
    )
)


def breaks_role(text: str) -> bool:
    """The user says what only an assistant does ("As an AI language model, I")."""
    low = text.lower().replace("’", "'")
    if OPENING.match(low):
        return True
    return any(hint in low for hint in HINTS) and PHRASES.search(low) is not None


def runs_on(text: str) -> bool:
    """The turn goes on with another speaker's name or header ("...thanks!\\nAssistant: ")."""
    marks = ":" in text or "\n" in text or "#" in text or ">" in text or "]" in text
    if marks or text.endswith(("assistant", "user")):
        return RUN_ON.search(text) is not None
    return False
