"""Fixed replies from a JSON file, for tests and dry runs: `scripted:replies.json`.

The file holds a list of texts; a dialogue's n-th request gets the n-th text, the last one again
and again after that. As a user, `<|endconversation|>` leaves.
"""

from __future__ import annotations

from pathlib import Path

from userlm_synth.backends.interface import FirstToken, Request, Result, Signals
from userlm_synth.errors import UserError
from userlm_synth.records import END_TOKEN, open_text, parse_json


class ScriptedBackend:
    """Replies in order, chosen by the number of turns so far: no state, any concurrency."""

    form = None
    context: int | None = None
    first_token: FirstToken = "regenerate"

    def __init__(self, file: str) -> None:
        try:
            with open_text(Path(file)) as opened:
                replies = parse_json(opened.read())
        except ValueError as error:
            raise UserError(f"{file}: {error}") from None
        if (
            not isinstance(replies, list)
            or not replies
            or not all(isinstance(r, str) for r in replies)
        ):
            raise UserError(f"{file}: a script is a JSON list of texts, at least one")
        self.replies: list[str] = replies
        self.name = f"scripted:{Path(file).name}"
        self.signals = Signals()

    async def start(self) -> None:
        """Nothing to do: the file is read."""

    async def generate(self, request: Request) -> Result:
        """The reply at this point of the dialogue."""
        turn = len([m for m in request.messages if m["role"] != "system"]) // 2
        text = self.replies[min(turn, len(self.replies) - 1)]
        if text == END_TOKEN:
            return Result("", "end", completion_tokens=1)
        return Result(text, "eot", completion_tokens=len(text.split()))

    async def waiting(self) -> int | None:
        """None ever waits."""
        return 0

    async def close(self) -> None:
        """Nothing to release."""
