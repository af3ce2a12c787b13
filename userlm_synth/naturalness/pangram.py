"""Pangram's detector of generated text (https://docs.pangram.com): a task a text, then its result.

POST /task gives a `task_id`; GET /task/ID a `stage`, and at the end windows of the text, each with
an `ai_assistance_score` from 0 (a person alone) to 1 (generated). A text's likelihood of being
human is 1 minus their mean, weighted by length. The paper had one likelihood a text from an
interface that is gone, so its figures are near these and not the same.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
from collections.abc import Iterator, Sequence
from typing import Any

from userlm_synth.asking import Cache
from userlm_synth.backends.connections import open_session
from userlm_synth.backends.dialect import complaint, one_line
from userlm_synth.backends.replicas import Replica
from userlm_synth.errors import UserError
from userlm_synth.progress import Progress, say
from userlm_synth.records import parse_json, stable_hash

KEY_ENV, URL_ENV = "PANGRAM_API_KEY", "USERLM_SYNTH_PANGRAM_URL"
URL = "https://text.external-api.pangram.com"
AT_ONCE = 8  # texts
TIMEOUT = 60.0  # seconds for one request
TRIES, FIRST_TRIES = 8, 3  # of one request; and of it while no request ever reached the server
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0  # seconds between tries; doubled each time, with jitter
POLL, PATIENCE = 0.5, 300.0  # seconds between looks at a task, and for one task
TASKS = 3  # for one text, when tasks fail
HOPELESS = 20  # texts refused, and none ever judged
AGAIN = "then run the same command again (the answers so far are kept)"


class _Refused(Exception):
    """Pangram does not judge this text; others may be fine."""


class _Gone(Exception):
    """A task that Pangram no longer knows."""


def ask_pangram(texts: Sequence[str], model: str, cache: Cache) -> tuple[str, dict[str, float]]:
    """(who answered, P(human) by text); texts that Pangram refuses are left out, which is said.

    `model`: one that the key may use, or `default`. The key is in PANGRAM_API_KEY.
    """
    keys = {text: stable_hash("pangram", model, text) for text in texts}
    unknown = [text for text in texts if keys[text] not in cache.answers]
    if unknown:
        say(f"  {len(unknown):,} texts are sent to Pangram, which bills them")
        client = _Client(model, cache)
        asyncio.run(client.ask_all(unknown, keys))
        if client.refused:
            why = next(iter(client.refused.values()))
            say(f"  {len(client.refused):,} texts are not judged by Pangram, the first: {why}")
    answers = {
        text: json.loads(cache.answers[key]) for text, key in keys.items() if key in cache.answers
    }
    versions = sorted({str(answer["version"]) for answer in answers.values()})
    if len(versions) > 1:
        raise UserError(
            f"{cache.path}: holds answers of Pangram's versions {' and '.join(versions)}, which do "
            "not compare; remove it, or name a model with evaluate.naturalness.by=pangram:MODEL"
        )
    name = f"pangram {versions[0]}" if versions else "pangram"
    return name, {text: float(answer["human"]) for text, answer in answers.items()}


def read_result(result: Any) -> tuple[float, str]:
    """(P(human), version) of a finished task; raises `_Refused` where no window was judged."""
    try:
        windows = [
            (float(one["token_length"]), float(one["ai_assistance_score"]))
            for one in result["windows"]
        ]
        version = str(result["version"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"Pangram: a result without {error}; its interface has changed, use another detector"
        ) from None
    length = math.fsum(tokens for tokens, _ in windows)
    if not length > 0:
        raise _Refused("nothing in it was long enough to judge")
    return 1 - math.fsum(tokens * score for tokens, score in windows) / length, version


class _Client:
    """Requests to Pangram; `refused` holds why it did not judge a text."""

    def __init__(self, model: str, cache: Cache) -> None:
        self.key = os.environ.get(KEY_ENV, "").strip()
        if not self.key:
            raise UserError(
                f"{KEY_ENV} is not set: set it to your key (https://www.pangram.com), or use "
                "evaluate.naturalness.by=classifier"
            )
        self.url = (os.environ.get(URL_ENV) or URL).rstrip("/")
        self.server = Replica("pangram", self.url)
        self.model, self.cache = model, cache
        self.refused: dict[str, str] = {}
        self.reached = self.good = False  # whether it ever answered, and judged

    async def ask_all(self, texts: Sequence[str], keys: dict[str, str]) -> None:
        """All texts, some at a time; raises `UserError` where no other text would fare better."""
        import aiohttp

        self.errors = (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError)
        self.session = open_session([self.server], None, TIMEOUT)
        left = iter(texts)
        with Progress("pangram", len(texts), "texts") as progress:
            work = [asyncio.create_task(self._work(left, keys, progress)) for _ in range(AT_ONCE)]
            try:
                await asyncio.gather(*work)
            finally:
                for one in work:
                    one.cancel()
                await asyncio.gather(*work, return_exceptions=True)
                await self.session.close()

    async def _work(self, left: Iterator[str], keys: dict[str, str], progress: Progress) -> None:
        for text in left:
            try:
                likely, version = await self._judge(text)
                self.good = True
            except _Refused as error:
                self.refused[text] = str(error)
                if len(self.refused) >= HOPELESS and not self.good:
                    raise UserError(
                        f"Pangram judged none of {len(self.refused)} texts: {error}"
                    ) from None
            else:
                answer = json.dumps({"human": likely, "version": version})
                self.cache.keep(keys[text], f"pangram:{self.model}", answer, {})
            progress.step()

    async def _judge(self, text: str) -> tuple[float, str]:
        """One text. Its task is kept: a run that was killed meanwhile does not pay twice."""
        key = stable_hash("pangram task", self.model, text)
        task, why = self.cache.answers.get(key), "its tasks are lost"
        for _ in range(TASKS):
            if task is None:
                task = await self._begin(text)
                self.cache.keep(key, f"pangram:{self.model}", task, {})
            try:
                result = await self._result(task)
                if result["stage"] == "STAGE_SUCCESS":
                    return read_result(result)
                why = self._shown(result.get("headline") or result.get("detail") or "it failed")
            except _Gone:
                pass
            task = None
        raise _Refused(why)

    async def _begin(self, text: str) -> str:
        """The id of a new task."""
        body = {"text": text, "model": self.model, "public_dashboard_link": False}
        answer = await self._request("POST", "/task", body)
        if not answer.get("task_id"):
            raise UserError(f"Pangram gave no task_id: {self._shown(answer)}")
        return str(answer["task_id"])

    async def _result(self, task: str) -> dict[str, Any]:
        """What a task came to."""
        loop = asyncio.get_running_loop()
        end = loop.time() + PATIENCE
        while loop.time() < end:
            answer = await self._request("GET", f"/task/{task}")
            if answer.get("stage") in ("STAGE_SUCCESS", "STAGE_FAILED"):
                return answer
            await asyncio.sleep(POLL)
        raise UserError(
            f"Pangram has not finished a text in {PATIENCE:.0f} s; wait a little, {AGAIN}"
        )

    async def _request(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The answer to one request; tries again where that helps."""
        trouble, wait, tries = "", 0.0, 0
        while tries < (TRIES if self.reached else FIRST_TRIES):
            await asyncio.sleep(wait)
            tries += 1
            wait = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (tries - 1)) * random.uniform(0.5, 1.0)
            try:
                async with self.session.request(
                    method, f"{self.url}{path}", data=None if body is None else json.dumps(body),
                    headers={"x-api-key": self.key}, proxy=self.server.proxy, allow_redirects=False,
                ) as response:  # fmt: skip
                    self.reached, raw = True, await response.read()
                    asked = response.headers.get("Retry-After", "")
                answer = parse_json(raw) if 200 <= response.status < 300 else None
            except self.errors as error:
                trouble = str(error) or type(error).__name__
                continue
            if isinstance(answer, dict):
                return answer
            trouble = self._trouble(response.status, path, raw)
            wait = max(wait, min(PATIENCE, float(asked)) if asked.isdigit() else 0.0)
        raise UserError(
            f"{self.server.shown}: Pangram does not answer ({self._shown(trouble)}); check the "
            f"network or wait, {AGAIN}"
        )

    def _trouble(self, status: int, path: str, raw: bytes) -> str:
        """What to try again for; raises where no other try would fare better."""
        try:
            text = self._shown(complaint(parse_json(raw)) or raw.decode(errors="replace"))
        except ValueError:
            text = self._shown(raw.decode(errors="replace"))
        told = f"{status}: {text}"
        if status in (401, 403):
            raise UserError(f"Pangram refuses the key in {KEY_ENV} ({told})")
        if status == 402:
            raise UserError(f"Pangram: no credit is left ({told}); add some, {AGAIN}")
        if status == 404 and path != "/task":
            raise _Gone
        if status in (400, 413, 422):
            raise _Refused(told)
        if status in (408, 429) or status >= 500 or 200 <= status < 300:
            return told
        raise UserError(f"{self.server.shown}: is not Pangram's address ({told})")

    def _shown(self, text: object) -> str:
        """Pangram's words in one short line, without the key."""
        return one_line(str(text), self.key)
