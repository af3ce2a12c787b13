"""Where a user's turn is no longer a user's: it answers as an assistant would, or it goes on into
the assistant's turn.

Both look for what people hardly ever write to an assistant, so they find little of what is wrong
and seldom what is right: `benchmarks/guardrails.py` counts both. The phrases are English.
"""

from __future__ import annotations

import re

_HERE = r"here(?:'s| is| are) "
_COUNT = r"(?:some|several|a few|\d+|two|three|four|five|six|seven|eight|nine|ten)\b"
_SOME = (
    rf"(?:{_COUNT}|an?\b|the (?:top|best|revised|updated|corrected|rewritten|translated|full|"
    r"complete|python)\b)"
)

# The first words of an answer. "Sure, here is my order" is a customer's: only what is offered
# (a list, an example) tells, not what is handed over.
OPENING = re.compile(
    r"(?:sure|certainly|of course|absolutely|definitely)(?: thing)?[!,.:]*\s+"
    rf"(?:{_HERE}{_SOME}|i(?:'d| would) be (?:happy|glad) to|i(?: can|'ll| will) (?:certainly |"
    r"definitely )?(?:help|assist|do my best|explain|provide)\b|let me (?:explain|help|assist)\b)"
    r"|certainly!"
    r"|you(?:'re| are) (?:very |most |so )?welcome\b"
    r"|thank you for (?:your question|reaching out|contacting)\b"
    rf"|{_HERE}(?:{_COUNT}|the (?:top|key|steps)\b)[^\n]{{0,150}}:\s*\n\s*(?:[-*•]|1[.)])"
)

# What only an assistant says of itself, and what it offers, anywhere in a turn.
PHRASES = re.compile(
    r"\bas an? (?:[a-z-]+ ){0,3}(?:ai|artificial intelligence|language model)"
    r"(?: language model| assistant| model| chatbot| system)*,? (?:i|i'm|it is|it's|my|there are)\b"
    r"|\bi(?:'m| am) (?:just |only |merely )?an? "
    r"(?:ai|artificial intelligence|(?:large )?language model|virtual assistant|chatbot)\b"
    r"|\bi(?:'m| am) glad (?:i could|to) (?:help|assist|be of (?:help|assistance))"
    r"|\bhow (?:can|may) i (?:help|assist) you\b[^.?!\n]{0,60}[?!.]"
    r"|\banything else (?:that )?i can (?:help|assist|do for)\b"
    r"|\bi(?:'m| am|'d be| would be) (?:always |more than |very )?"
    r"(?:happy|glad|delighted|pleased|here) to (?:help|assist)"
    r"(?: you\b| further\b| with (?:that|this|your|any)\b|\s*[.!,]|\s*$)"
    r"|\b(?:let me know|feel free to (?:ask|reach out)|don't hesitate to (?:ask|reach out|contact))"
    r"(?: me)? if (?:you have any (?:other |further |more |additional )?questions"
    r"|you need (?:any )?(?:other |further |more |additional )?(?:help|assistance)"
    r"|there(?:'s| is) anything else i)"
    r"|\bi(?:'m sorry| am sorry| apologize),? but (?:as an|i (?:can't|cannot|am unable to|am not able "
    r"to)|i'm (?:unable|not able) to) (?:assist|help|provide|fulfill|comply|generate|ai\b|language)"
    r"|\bi don't have (?:personal (?:opinions|beliefs|preferences|experiences|feelings|emotions)"
    r"|(?:access to )?real-time)\b"
    r"|\bi hope (?:this|that) (?:helps|answers)\b"
)
#: Every phrase above has one of these; most turns have none, and are done with.
HINTS = (
    "an ai", "language model", "artificial", "chatbot", "help", "assist", "anything else",
    "any questions", "other questions", "more questions", "r questions", "l questions",
    "i don't have", "this answers", "that answers", "but i", "but as an",
)  # fmt: skip
LOOKED_AT = 2_000  # characters, from the beginning and from the end

_ROLE = r"(?:AI(?: Assistant)?|Assistant|ASSISTANT|Chatbot|ChatGPT|Human|HUMAN|User|USER)"
RUN_ON = re.compile(
    rf"(?:^|\n)\s*(?:\*\*)?{_ROLE}\s?(?:\*\*)?:"  # a line of a transcript
    r"|(?:^|\n)(?:assistant|ai|human|user|bot):"
    r"|[.?!\"')]\s*(?:AI|Assistant|Human|User):\s"
    r"|(?:^|\n)#{2,4} ?(?:Response|Assistant|Instruction|Human|User)\b"
    # what is left of a header where a server takes special tokens out
    r"|(?:^|[\n.?!\"')])(?:assistant|user)(?:\n|$)"
    r"|\Bassistant\n"
    # or with the special tokens, where they may stand
    r"|(?:\|>|<start_of_turn>|<s>)\s*(?:assistant|user|system|model)\b|\[/INST\]"
)


def breaks_role(text: str) -> bool:
    """The user says what only an assistant does ("As an AI language model, I")."""
    low = text.lower().replace("’", "'")
    if OPENING.match(low):
        return True
    return any(hint in low for hint in HINTS) and PHRASES.search(low) is not None


def runs_on(text: str) -> bool:
    """The turn goes on with another speaker's name or header ("...thanks!\\nAssistant: ")."""
    if ":" in text or "\n" in text or "#" in text or "|>" in text or text.endswith("ant"):
        return RUN_ON.search(text) is not None
    return False
