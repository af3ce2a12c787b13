"""Any OpenAI-compatible server as the assistant, through the openai SDK.

The key is read from an environment variable and never written anywhere; a local server that wants
none gets a placeholder.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Sequence
from typing import Any

from userlm_synth.backends.dialect import Dialect, one_line, read_key
from userlm_synth.backends.interface import FirstToken, Request, Result, Signals


class OpenAIBackend:
    """Chat completions; several URLs are replicas of one model, and a session stays with one.

    `timeout` is in seconds, for one try; the SDK waits longer and longer between `max_retries`.
    """

    form = None
    context: int | None = None
    first_token: FirstToken = "regenerate"

    def __init__(
        self,
        model: str,
        urls: Sequence[str],
        key_env: str,
        *,
        max_retries: int = 5,
        timeout: float = 600.0,
    ) -> None:
        import openai

        key = read_key(model, urls, key_env)
        self.model = model
        self.name = f"openai:{model}"
        self.clients = [
            openai.AsyncOpenAI(
                base_url=url, api_key=key or "none", max_retries=max_retries, timeout=timeout
            )
            for url in urls
        ]
        self.signals = Signals()  # the SDK does not tell
        self.turns = itertools.count()
        self.dialect = Dialect(self.name)

    def _client(self, session: str) -> Any:
        place = zlib.crc32(session.encode()) if session else next(self.turns)
        return self.clients[place % len(self.clients)]

    async def start(self) -> None:
        """Nothing to do: the first request shows what is wrong."""

    async def generate(self, request: Request) -> Result:
        """One chat completion; what the server refuses comes back as an error, in one line.

        An error that the SDK raises begins with its class's name, as in `RateLimitError: ...`.
        """
        import openai

        client = self._client(request.session)
        while True:
            settings = self._settings(request)
            try:
                answer = await client.chat.completions.create(**settings)
            except openai.BadRequestError as error:
                if self.dialect.learn(str(error), settings):
                    continue
                return Result(_in_one_line(error, client), "error")
            except openai.OpenAIError as error:
                return Result(_in_one_line(error, client), "error")
            except ValueError:  # the SDK lets a JSON parser's own error through
                return Result(f"{client.base_url}: the server's answer is not JSON", "error")
            return _result(answer, str(client.base_url))

    def _settings(self, request: Request) -> dict[str, Any]:
        return self.dialect.settings(
            {
                "model": self.model,
                "messages": list(request.messages),
                "max_tokens": request.max_tokens,
                "seed": request.seed % 2**31,
                "temperature": request.temperature,
                "top_p": request.top_p,
            }
        )

    async def waiting(self) -> int | None:
        """Not known."""
        return None

    async def close(self) -> None:
        """Close the connections."""
        for client in self.clients:
            await client.close()


def _in_one_line(error: Exception, client: Any) -> str:
    """An SDK's error for people: where, what, and never the key, which a server may echo."""
    text = " ".join(str(error).split())
    if error.__cause__ is not None and str(error.__cause__):
        text += f" ({error.__cause__})"  # "Connection error." alone helps nobody
    key = client.api_key if client.api_key != "none" else None
    return f"{type(error).__name__}: {client.base_url}: {one_line(text, key)}"


def _result(answer: Any, url: str) -> Result:
    """A completion as a `Result`. The SDK checks no shapes: anything may be missing or a string."""
    choices = getattr(answer, "choices", None)
    if not isinstance(choices, list):
        return Result(f"{url}: the server's answer is not a chat completion", "error")
    if not choices:
        return Result(f"{url}: the server sent no choice", "error")
    content = getattr(getattr(choices[0], "message", None), "content", None)
    usage = getattr(answer, "usage", None)
    cut = getattr(choices[0], "finish_reason", None) == "length"
    return Result(
        text=content if isinstance(content, str) else "",
        finish="length" if cut else "eot",
        prompt_tokens=getattr(usage, "prompt_tokens", None) or 0,
        completion_tokens=getattr(usage, "completion_tokens", None) or 0,
    )
