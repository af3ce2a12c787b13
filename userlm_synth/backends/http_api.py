"""A lean client of OpenAI-compatible servers: one aiohttp session, retries, replicas, plain errors.

The openai SDK takes 2 ms of CPU a request, this 0.1 ms: on the way to a server of one's own the
client is the limit otherwise.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from userlm_synth.backends.connections import open_session
from userlm_synth.backends.dialect import complaint, hidden, one_line, read_key
from userlm_synth.backends.interface import Signals
from userlm_synth.backends.replicas import Replica, Replicas
from userlm_synth.errors import UserError
from userlm_synth.recipe import Server

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds between two tries; doubled each time, with jitter
LOOK = 30.0  # seconds for a server's list of models
LONGEST_ASKED = 600.0  # seconds of a Retry-After that are waited for
START_WAITS = (0.25, 0.5, 1.0, 2.0)  # seconds between looks for a server that is not there yet
PASSING = {408, 409, 425, 429}  # and 5xx
LISTED = 10  # models of a server that people are shown
OVERLOADED = {429, 503}
ABOUT_THE_REQUEST = {400, 413, 422}


class Refused(Exception):
    """The server takes this request not, now or later; others may be fine."""


class Failed(Exception):
    """This request got no good answer in all its tries; others did."""


class Malformed(ValueError):
    """An answer that is none: cut off, of another shape, without a choice."""


@dataclass
class Trouble:
    """Why a try failed: in words, how long the server wants to be left alone, and how it met us."""

    text: str
    wait: float | None = None
    unconnected: bool = False


class Client:
    """Requests to the replicas of one model. `stopped` says why no request is sent any more."""

    def __init__(self, model: str, urls: Sequence[str], key_env: str, server: Server) -> None:
        import aiohttp

        self.name = f"openai:{model}"
        self.model, self.key_env, self.server = model, key_env, server
        self.key = read_key(model, urls, key_env)
        self.replicas = Replicas([Replica(self.name, url) for url in urls])
        self.errors = (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError)
        self.unconnected = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
        self.signals = Signals()
        self.stopped: UserError | None = None
        self.closed = False
        self.opened: aiohttp.ClientSession | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        """The one session, made in the loop that asks for it."""
        if self.opened is None:
            self.opened = open_session(self.replicas.all, self.key, self.server.timeout)
        return self.opened

    async def post(self, path: str, body: Any, session: str, read: Callable[[Any], T]) -> T:
        """The answer to one request as `read` makes it of the JSON; tries again where that helps.

        `read` raises `Malformed` for an answer that is none. Raises `Refused`, `Failed`, and
        `UserError` for what no other request would escape.
        """
        payload = orjson.dumps(body)
        client = self.session
        trouble = Trouble("")
        for attempt in range(self.server.retries + 1):
            if attempt:
                await self._pause(attempt, trouble)
            if self.stopped:
                raise UserError(str(self.stopped))
            replica = self.replicas.pick(session)
            replica.open += 1
            try:
                async with client.post(
                    replica.urls[path], data=payload, proxy=replica.proxy, allow_redirects=False
                ) as response:
                    raw = await response.read()
                if response.status == 200:
                    answer = read(orjson.loads(raw))
                    replica.good = True
                    return answer
                trouble = await self._refusal(replica, path, response, raw)
            except self.errors as error:
                trouble = self._passing(replica, error)
            finally:
                replica.open -= 1
        raise self._exhausted(trouble)

    async def probe(self, replica: Replica, path: str, body: Any = None) -> tuple[int, Any]:
        """As `ask`; (0, None) where nothing came back."""
        try:
            return await self.ask(replica, path, body)
        except self.errors:
            return 0, None

    async def ask(self, replica: Replica, path: str, body: Any = None) -> tuple[int, Any]:
        """(status, answer) of one request to one replica, outside of all sessions, tried once.
        Raises one of `errors` where nothing came back."""
        sending = self.session.request(
            "GET" if body is None else "POST",
            replica.urls[path],
            data=None if body is None else orjson.dumps(body),
            proxy=replica.proxy,
            allow_redirects=False,
        )
        async with sending as response:
            raw = await response.read()
        return response.status, _loads(raw)

    async def look(self, replica: Replica) -> Any:
        """What /models says, or None where a server has no such list; waits a little for a server
        that is not there yet, then raises `UserError`."""
        for wait in (*START_WAITS, None):
            try:
                status, answer = await asyncio.wait_for(self.ask(replica, "/models"), LOOK)
                break
            except self.errors as error:
                if wait is None:
                    raise self._absent(replica, _words(error)) from None
                await asyncio.sleep(wait)
        if status in (401, 403):
            raise self._wrong_key(replica, status, complaint(answer))
        return answer if status == 200 else None

    async def metrics(self, replica: Replica) -> bytes | None:
        """The server's /metrics, "" where it has none; None where it does not answer."""
        try:
            async with self.session.get(
                replica.urls["/metrics"], proxy=replica.proxy, allow_redirects=False
            ) as response:
                page = await response.read()
        except self.errors:
            return None
        return page if response.status == 200 else b"" if response.status == 404 else None

    async def token_id(self, replica: Replica, text: str) -> int | None:
        """The id of a text that is one token, by vLLM's /tokenize; None otherwise."""
        body = {"model": self.model, "prompt": text, "add_special_tokens": False}
        status, answer = await self.probe(replica, "/tokenize", body)
        ids = answer.get("tokens") if status == 200 and isinstance(answer, dict) else None
        return ids[0] if isinstance(ids, list) and len(ids) == 1 else None

    async def close(self) -> None:
        """Close the connections; requests under way fail."""
        self.closed = True
        if self.opened is not None:
            await self.opened.close()

    def show(self, text: str) -> str:
        """A server's words in one short line, without the key."""
        return one_line(text, self.key)

    def stop(self, text: str) -> UserError:
        """The one error that every request from now on ends with."""
        self.stopped = self.stopped or UserError(f"{self.name}: {hidden(text, self.key)}")
        return self.stopped

    # ---- what went wrong ---------------------------------------------------------------------

    async def _refusal(
        self, replica: Replica, path: str, response: aiohttp.ClientResponse, raw: bytes
    ) -> Trouble:
        """An answer other than 200: what to try again, or an exception."""
        status, answer = response.status, _loads(raw)
        text = complaint(answer) or raw[:2000].decode(errors="replace") or str(response.reason)
        if status in (401, 403):
            raise self._wrong_key(replica, status, text)
        if status == 402 or "insufficient_quota" in text:
            raise self.stop(
                f"{replica.shown}: no credit is left ({self.show(text)}); add some, then run the "
                "same command again"
            )
        if status in PASSING or (status >= 500 and status != 501):
            self.signals.throttled += status in OVERLOADED
            return Trouble(f"{replica.shown}: {status}: {text}", _asked_wait(response.headers))
        if status in ABOUT_THE_REQUEST:
            raise Refused(text)
        if status in (404, 405, 501):
            raise await self._missing(replica, path, text)
        if 300 <= status < 400:
            where = response.headers.get("Location", "elsewhere")
            raise self.stop(f"{replica.shown}: the server moved to {where}; write that address")
        raise Refused(f"{status}: {text}")

    def _passing(self, replica: Replica, error: BaseException) -> Trouble:
        """No answer, or one that is none."""
        unconnected = isinstance(error, self.unconnected)
        moves = self.replicas.down(replica) if unconnected else False
        return Trouble(f"{replica.shown}: {_words(error)}", 0.0 if moves else None, unconnected)

    async def _pause(self, attempt: int, trouble: Trouble) -> None:
        if self.closed:
            raise asyncio.CancelledError  # whoever closes wants no answer
        self.signals.retries += 1
        if trouble.wait is None:
            wait = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)
        else:
            wait = min(LONGEST_ASKED, trouble.wait) * random.uniform(1.0, 1.25)
        await asyncio.sleep(wait)

    def _exhausted(self, trouble: Trouble) -> Exception:
        if trouble.unconnected or not any(one.good for one in self.replicas.all):
            return self.stop(
                f"the server does not answer ({self.show(trouble.text)}); start it or mend the "
                "address, then run the same command again"
            )
        return Failed(self.show(trouble.text))

    def _absent(self, replica: Replica, why: str) -> UserError:
        return UserError(
            f"{self.name}: {replica.shown}: the server is not there ({self.show(why)}); start it "
            "or mend the address"
        )

    def _wrong_key(self, replica: Replica, status: int, text: str) -> UserError:
        key = f"in the environment variable {self.key_env}"
        what = f"the key {key}" if self.key else f"a request without a key (none is {key})"
        return self.stop(f"{replica.shown} refuses {what}: {status}: {self.show(text)}")

    def no_model(self, replica: Replica, entries: Sequence[dict[str, Any]]) -> UserError:
        """Which models the server has, the first few."""
        names = [entry["id"] for entry in entries]
        return self.stop(f"{replica.shown} has no model {self.model!r}; {listed(names)}")

    async def _missing(self, replica: Replica, path: str, text: str) -> UserError:
        """404: the model is not there, or the address is not the server's."""
        _, answer = await self.probe(replica, "/models")
        entries = model_entries(answer)
        if entries and all(entry["id"] != self.model for entry in entries):
            return self.no_model(replica, entries)
        return self.stop(
            f"{replica.shown}{path}: not found ({self.show(text)}); the address is usually that "
            "of the server with /v1 at its end"
        )


def model_entries(answer: Any) -> list[dict[str, Any]]:
    """The models in a server's list; [] for anything that is no list."""
    entries = answer.get("data") if isinstance(answer, dict) else None
    entries = entries if isinstance(entries, list) else []
    return [one for one in entries if isinstance(one, dict) and isinstance(one.get("id"), str)]


def model_names(answer: Any) -> list[str]:
    """The ids in a list of models."""
    return [entry["id"] for entry in model_entries(answer)]


def listed(names: Sequence[str]) -> str:
    """`it has: a, b`, the first few."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"it has: {', '.join(names[:LISTED])}{more}"


def _loads(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except ValueError:
        return None


def _words(error: BaseException) -> str:
    """An error's text, or its kind where it has none, as a timeout."""
    if isinstance(error, Malformed):
        return str(error)
    if isinstance(error, ValueError):
        return "the server's answer is not JSON"
    if isinstance(error, asyncio.TimeoutError) and "onnect" not in str(error):
        return "no answer in time"
    return str(error) or type(error).__name__


def _asked_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds of `retry-after-ms` or `Retry-After` (seconds or an HTTP date); None for none."""
    try:
        if "retry-after-ms" in headers:
            wait = float(headers["retry-after-ms"]) / 1000
        else:
            text = headers.get("Retry-After", "")
            number = text.replace(".", "", 1).isdigit()
            wait = float(text) if number else parsedate_to_datetime(text).timestamp() - time.time()
    except (TypeError, ValueError, OverflowError):
        return None
    return wait if wait > 0 else None
