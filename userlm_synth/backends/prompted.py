"""An assistant model prompted to play the user: `prompted:SPEC`, the paper's baseline (App. E).

The conversation is told from the other side: what the user said is the model's own, what the
assistant said is sent to it. Nobody speaks before the user does, so a note that asks for the first
message stands in the opening turn; each of the assistant's turns that awaits an answer has a note
below it, which says how to leave or that it is too early. Earlier turns stand there without their
notes. The wording is our own; what it asks for is what the paper's asks for: ways of a real user
(slips, little effort, the intent bit by bit), none of it overdone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from userlm_synth.backends.interface import Backend, FirstToken, Request, Result, Signals
from userlm_synth.records import END_TOKEN, Message, Role

if TYPE_CHECKING:
    from userlm_synth.user_lm import ChatFormat

ROLE = """\
You play a person who uses an AI assistant. What you write is sent to the assistant as it stands;
what you are sent are the assistant's answers. You are never the assistant: you want something, and
it is there to help. Notes to you stand in square brackets; the assistant does not see them.
"""

GOAL = """
What the assistant is to be used for, and what is known of the person, described from outside:

{system}
"""

STYLE = """
Write as people type into a chat:
- With little effort: short, often in lower case or without the right punctuation, now and then
  with a slip of the keys.
- One thing at a time. Begin with a part of what you want, in words of your own and not in those of
  the description; tell more only when it is needed or asked for.
- All this in moderation: like a real person, not like somebody who acts one.
- Only the message itself: no name before it, no quotation marks around it, no remark about it.
"""

FIRST = "[Write the first message to the assistant.]"
NEXT = (
    f"[If this answer gives the person what they wanted, write {END_TOKEN} and nothing else. "
    "If not, write the person's next message to the assistant.]"
)
GO_ON = "[The chat goes on: write the person's next message to the assistant.]"

#: How models spell the end token, which is not one of their own tokens.
END = re.compile(r"[<\[]\|?\s*end[\s_-]?(?:of[\s_-]?)?conversation\s*\|?[>\]]", re.IGNORECASE)
THOUGHT = re.compile(r"\s*<think>.*?(?:</think>|\Z)", re.DOTALL)
LABEL = re.compile(r"(?:\*\*|\[)?(?:user|human|person)(?:\*\*|\])?:(?:\*\*)?\s*", re.IGNORECASE)
QUOTES = {'"': '"', "“": "”", "„": "“", "«": "»", "'": "'", "`": "`", "「": "」"}


class PromptedBackend:
    """Any model behind the interface, in the user's place; requests carry messages alone."""

    form: ChatFormat | None = None  # what we send is no prompt of the model's
    first_token: FirstToken = "regenerate"

    def __init__(self, inner: Backend) -> None:
        self.inner = inner

    @property
    def name(self) -> str:
        """The model's own name, as one that is prompted."""
        return f"prompted:{self.inner.name}"

    @property
    def signals(self) -> Signals:
        """The inner backend's."""
        return self.inner.signals

    @property
    def context(self) -> int | None:
        """Tokens for the intent, the turns and a reply: our own words are taken off."""
        if self.inner.context is None:
            return None
        told = told_to([], may_end=True)
        form = self.inner.form
        size = len(form.prompt(told)) if form else sum(len(m["content"]) for m in told) // 4
        return max(self.inner.context - size, 0)

    async def start(self) -> None:
        """Make the inner backend ready."""
        await self.inner.start()

    async def waiting(self) -> int | None:
        """What the inner backend has queued."""
        return await self.inner.waiting()

    async def close(self) -> None:
        """Close the inner backend."""
        await self.inner.close()

    async def generate(self, request: Request) -> Result:
        """The user's next turn; `end` where the model writes the end token.

        Where it may not leave, what it wrote before the token is its turn; nothing before it
        stays an `end`, for whoever asked to count.
        """
        asked = self.asked(request)
        if self._is_full(asked):
            return Result("", "context_full")
        result = await self.inner.generate(asked)
        if result.finish not in ("eot", "length"):
            return result
        text = THOUGHT.sub("", result.text, count=1)
        mark = END.search(text)
        if mark is None:
            return replace(result, text=bare(text))
        before = bare(text[: mark.start()])
        if request.may_end or not before:
            return replace(result, text="", finish="end")
        return replace(result, text=before, finish="eot")

    def asked(self, request: Request) -> Request:
        """The request that the model gets: the one that is paid for."""
        messages = told_to(request.messages, may_end=request.may_end)
        form = self.inner.form
        return Request(
            messages=messages,
            prompt_ids=[*form.prompt(messages), *form.lead] if form else None,
            temperature=request.temperature,
            top_p=request.top_p,
            max_tokens=request.max_tokens,
            seed=request.seed,
            session=request.session,
        )

    def _is_full(self, asked: Request) -> bool:
        if asked.prompt_ids is None or self.inner.context is None:
            return False
        return len(asked.prompt_ids) + asked.max_tokens > self.inner.context


def told_to(messages: Sequence[Message], *, may_end: bool) -> list[Message]:
    """A conversation (its system message: intent and persona) for a model that plays the user."""
    system = [m["content"] for m in messages if m["role"] == "system"]
    goal = [GOAL.format(system=text) for text in system]
    turns = [m for m in messages if m["role"] != "system"]
    told: list[Message] = [
        {"role": "system", "content": "".join([ROLE, *goal, STYLE]).rstrip()},
        {"role": "user", "content": FIRST},
    ]
    for turn in turns:
        role: Role = "assistant" if turn["role"] == "user" else "user"
        told.append({"role": role, "content": turn["content"]})
    if turns:
        note = NEXT if may_end else GO_ON
        told[-1] = {"role": "user", "content": f"{turns[-1]['content']}\n\n{note}"}
    return told


def bare(text: str) -> str:
    """A message without what models put around it: a speaker's name, quotation marks."""
    text, former = text.strip(), None
    while text != former:
        former = text
        text = LABEL.sub("", text, count=1) if LABEL.match(text) else text
        closer = QUOTES.get(text[:1])
        if closer and len(text) > 1 and text.endswith(closer):
            inside = text[1:-1]
            if text[0] not in inside and closer not in inside:
                text = inside.strip()
    return text
