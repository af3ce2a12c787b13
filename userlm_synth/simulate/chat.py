"""A person talks with a user LM: the model plays the user, the person its assistant.

What is kept is a dialogue like any other (`assistant_model` is `human`), without guardrails: one
sees the model as it is. A user does not leave before the first turn, nor say nothing.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from userlm_synth.backends import Backend, Request, Result
from userlm_synth.errors import UserError
from userlm_synth.records import (
    Message,
    Record,
    check,
    open_text,
    read_lines,
    stable_hash,
    to_line,
    user_turns,
    write_bytes,
)
from userlm_synth.simulate.guardrails import without_markup
from userlm_synth.user_lm.render import system_text

if TYPE_CHECKING:
    from userlm_synth.recipe import Generate

#: Reverse the order of what follows them on the line, in a terminal.
BIDI = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}


@dataclass
class Chat:
    """One conversation. `ask` samples the user's next turn, `answer` adds the person's reply."""

    user: Backend
    settings: Generate
    intent: str
    persona: str | None
    seed: int
    recipe_hash: str
    id: str = field(default_factory=lambda: f"chat-{uuid.uuid4().hex[:20]}")
    messages: list[Message] = field(default_factory=list)
    end_probabilities: list[float | None] = field(default_factory=list)
    usage: Counter[str] = field(default_factory=Counter)
    left_out: int = 0  # samples that the person asked to have again
    stop: str | None = None  # why the user says no more

    @property
    def answerable(self) -> bool:
        """Whether there is a user turn to reply to."""
        return self.stop is None and bool(self.messages) and self.messages[-1]["role"] == "user"

    async def ask(self) -> Result:
        """The user's next turn, as the backend has it; `text` is without control tokens.

        It joins the conversation where it says something. An `error`, or a turn without words,
        leaves the conversation as it was; `end` and `context_full` close it.
        """
        request = self._request()
        result = await self.user.generate(request) if request else Result("", "context_full")
        self.usage["prompt_tokens"] += result.prompt_tokens
        self.usage["completion_tokens"] += result.completion_tokens
        if result.finish == "error":
            return result
        result = replace(result, text=without_markup(result.text).strip())
        if result.finish != "context_full":
            self.end_probabilities[len(user_turns(self.messages)) :] = [result.end_probability]
        if result.finish == "end" and not self.messages:  # a backend that cannot ban the token
            return replace(result, text="", finish="eot")
        if result.finish in ("end", "context_full"):
            self.stop = "user_ended" if result.finish == "end" else "context_full"
        elif result.text:
            self.messages.append({"role": "user", "content": result.text})
        return result

    def answer(self, text: str) -> bool:
        """Add the assistant's reply; False where it has no words (control tokens are none)."""
        text = without_markup(text).strip()
        if text:
            self.messages.append({"role": "assistant", "content": text})
        return bool(text)

    def forget(self) -> None:
        """Take the last user turn back; the next `ask` draws another sample."""
        if self.messages and self.messages[-1]["role"] == "user":
            self.messages.pop()
        self.left_out += 1

    def undo(self) -> bool:
        """Take the last reply back, and what the user said to it; False where there is none."""
        replies = [n for n, one in enumerate(self.messages) if one["role"] == "assistant"]
        if replies:
            del self.messages[replies[-1] :]
            del self.end_probabilities[len(user_turns(self.messages)) :]
        return bool(replies)

    def _request(self) -> Request | None:
        """What to send; None where no room is left in the context."""
        opening = {"role": "system", "content": system_text(vars(self)) or ""}
        messages: list[Message] = [opening, *self.messages]  # type: ignore[list-item]
        request = Request(
            messages=messages,
            temperature=self.settings.temperature,
            top_p=self.settings.top_p,
            max_tokens=self.settings.max_tokens,
            seed=int(stable_hash(self.seed, "user", len(messages), self.left_out)[:12], 16),
            may_end=bool(self.messages),
            session=self.id,
        )
        form = self.user.form
        if form is None:
            return request
        prompt = [*form.prompt(messages), *form.lead]
        room = (self.user.context or len(prompt) + request.max_tokens) - len(prompt)
        if room < 1:
            return None
        return replace(
            request,
            prompt_ids=prompt,
            max_tokens=min(room, request.max_tokens),
            stop_ids=form.stop_ids,
            end_id=form.end_id,
            banned=[] if self.messages or form.end_id is None else [form.end_id],
            banned_first=[form.turn_end_id],
        )

    def record(self) -> Record:
        """The dialogue so far. A person who leaves first counts as the end of turns."""
        none = {"prompt_tokens": 0, "completion_tokens": 0}
        return {
            "id": self.id,
            "source": "userlm_synth",
            "user_id": None,
            "language": None,
            "intent": self.intent,
            "persona": self.persona,
            "messages": list(self.messages),
            "metadata": {"made_by": "chat", **({} if self.stop else {"left": "assistant"})},
            "intent_id": f"intent-{stable_hash(self.intent)[:12]}",
            "seed": self.seed,
            "stop_reason": self.stop or "max_turns",
            "user_model": self.user.name,
            "assistant_model": "human",
            "guardrails": {"asked_again": self.left_out} if self.left_out else {},
            "end_probabilities": list(self.end_probabilities),
            "usage": {"user": {**none, **self.usage}, "assistant": none},
            "recipe_hash": self.recipe_hash,
        }


def save(record: Record, path: Path) -> None:
    """Add a dialogue to a JSONL file, or put it in the place of its earlier state there.

    The file is written whole beside its place, so that a crash leaves the old or the new one; two
    chats that save to one file wait for each other.
    """
    line = to_line(check(record, "dialogue", str(path))).encode()
    refuse_other_files(path)
    with _alone(path):
        # by way of a name of our own: `write_bytes` clears its part away after the file is there,
        # when the next chat, which locks the new file, may have begun to write
        part = path.with_name(f".{record['id']}.{path.name}")
        write_bytes(part, [*_others(path, record["id"]), line])
        part.replace(path)


def refuse_other_files(path: Path) -> None:
    """`UserError` where `path` is there and holds anything but JSON lines, or cannot be there."""
    nearest = next(one for one in (path, *path.parents) if one.exists())
    if nearest == path:
        for _ in _others(path, ""):
            pass
    elif not nearest.is_dir():
        raise UserError(f"{nearest}: is a file, so {path} cannot be made")


def _others(path: Path, own: str) -> Iterator[bytes]:
    """The lines of a file as they are, but for the record of id `own`."""
    known = dict(read_lines(path))
    for number, one in known.items():
        if not isinstance(one, dict):
            raise UserError(f"{path}:{number}: is not a record; save to a JSONL file of dialogues")
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if number in known and known[number].get("id") != own:
                yield line if line.endswith(b"\n") else line + b"\n"


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold `path`, made where it is missing, until no other process does; then it is ours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if path.exists() and path.stat().st_ino == os.fstat(handle).st_ino:
                yield
                return
        finally:
            os.close(handle)  # another process put a new file here while we waited: once more


def harmless(text: str) -> str:
    """A model's text for a terminal: control characters are shown, not obeyed (`\\x1b`)."""
    return "".join(
        char
        if char in "\n\t" or not (ord(char) < 32 or 127 <= ord(char) < 160 or ord(char) in BIDI)
        else char.encode("unicode_escape").decode()
        for char in text
    )
