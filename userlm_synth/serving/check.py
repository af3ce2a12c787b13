"""The check of an endpoint that was just started: is what answers there the user LM?

Whose turn its template opens is seen in the prompt's token ids, which vLLM sends back; the end is
forced by allowing no other token, so that the answer does not depend on the model's mood.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Protocol
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

from userlm_synth.backends.first_token import FIELD, PROBE
from userlm_synth.errors import Problems, UserError
from userlm_synth.records import INTENT_OPENING, Message
from userlm_synth.user_lm import ChatFormat

TIMEOUT = 120.0  # seconds; a first request may wait for kernels to be built
ASKED: list[Message] = [{"role": "system", "content": f"{INTENT_OPENING} order a small latte."}]


class Served(Protocol):
    """What the check has to know of an endpoint."""

    @property
    def url(self) -> str: ...
    @property
    def key(self) -> str | None: ...
    @property
    def names(self) -> list[str]: ...
    @property
    def form(self) -> ChatFormat: ...


def check(what: Served) -> None:
    """Raise `UserError`, a line for each thing that is not as it should be."""
    try:
        problems = [line for name in what.names for line in _problems(what, name)]
    except HTTPError as error:
        body = " ".join(error.read().decode(errors="replace").split())
        problems = [f"status {error.code}: {body[:300]}"]
    except OSError as error:
        problems = [f"no answer: {error}"]
    if problems:
        raise Problems(f"{what.url}: the check failed: {line}" for line in problems)


def reachable(url: str, key: str | None = None) -> bool:
    """Whether a server answers at all; what it answers is for the check."""
    try:
        call(f"{url}/models", key=key, timeout=5.0)
    except (HTTPError, UserError):
        return True
    except OSError:
        return False
    return True


def _problems(what: Served, name: str) -> Iterator[str]:
    form = what.form
    prompt = form.prompt(ASKED)
    chat = _ask(what, "chat/completions", model=name, messages=ASKED)
    if chat.get("prompt_token_ids") != prompt:
        yield (
            f"{name}: its chat template does not render the prompt as the checkpoint's own does, "
            "with a *user* turn opened at the end"
        )
    yield from _stop_problems(what, name, prompt)
    yield from _filter_problems(what, name, prompt)


def _stop_problems(what: Served, name: str, prompt: list[int]) -> Iterator[str]:
    """Each stop token, forced, must come back by its id and be the last; a client that names no
    stop ids must be stopped too."""
    for stop in what.form.stop_ids:
        for named in ({"stop_token_ids": what.form.stop_ids}, {}):
            forced = {"allowed_token_ids": [stop], "max_tokens": 3, "prompt": prompt}
            answer = _ask(what, "completions", model=name, **forced, **named)
            choice = answer["choices"][0]
            if choice.get("token_ids") != [stop]:
                word = what.form.tokenizer.convert_ids_to_tokens(stop)
                yield f"{name}: {word} came back as {choice.get('token_ids')}, not as [{stop}]"


def _filter_problems(what: Served, name: str, prompt: list[int]) -> Iterator[str]:
    """The first-token filter: there, and at work."""
    try:
        _ask(what, "completions", model=name, prompt=prompt, vllm_xargs=PROBE)
        yield f"{name}: the processor that filters first tokens is not loaded"
        return
    except HTTPError as error:
        if FIELD not in error.read().decode(errors="replace"):
            raise
    first, second = what.form.stop_ids[:2]
    some = {"allowed_token_ids": [first, second], "prompt": prompt, "max_tokens": 1}
    answer = _ask(what, "completions", model=name, **some, vllm_xargs={FIELD: [first]})
    if answer["choices"][0].get("token_ids") != [second]:
        yield f"{name}: the filter of first tokens let a filtered token pass"


def _ask(what: Served, api: str, **body: Any) -> Any:
    settings = {"temperature": 0.0, "max_tokens": 1, "return_token_ids": True}
    return call(f"{what.url}/{api}", {**settings, **body}, key=what.key)


def call(url: str, body: Any = None, *, key: str | None = None, timeout: float = TIMEOUT) -> Any:
    """A JSON answer, past any proxy.

    Raises `HTTPError` for what the server refuses, `OSError` where nothing answers, and
    `UserError` for an answer that is not JSON.
    """
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    opener = build_opener(ProxyHandler({}))
    try:
        with opener.open(Request(url, data, headers), timeout=timeout) as answer:
            return json.loads(answer.read())
    except HTTPError:
        raise
    except URLError as error:
        raise OSError(str(error.reason)) from None
    except ValueError:
        raise UserError(f"{url}: what answers there is no OpenAI-compatible server") from None
