"""Facts about the OpenAI-compatible backend, against a small real server on this machine."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from userlm_synth.backends import Request, Result, open_backend
from userlm_synth.backends.openai_api import OpenAIBackend
from userlm_synth.errors import UserError

KEY_ENV = "USERLM_SYNTH_TEST_KEY"
KEY = "sk-test-9f2c71d0b8"


def completion(content: str | None, finish: str = "stop") -> dict[str, Any]:
    """The body of a chat completion, as servers send it."""
    return {
        "id": "c1",
        "object": "chat.completion",
        "created": 0,
        "model": "tiny",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish,
                "message": {"role": "assistant", "content": content},
            }
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12},
    }


class Server(ThreadingHTTPServer):
    """Answers each POST with what `behave(request body, request number)` returns.

    That is a text (a good completion) or (status, headers, body); a body is JSON or raw bytes.
    """

    daemon_threads = True

    def __init__(self, behave: Callable[[dict[str, Any], int], Any]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behave = behave
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.lock = threading.Lock()
        self.busy = self.most_busy = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            number = len(server.requests)
            server.requests.append(body)
            server.headers.append({k.lower(): v for k, v in self.headers.items()})
            server.busy += 1
            server.most_busy = max(server.most_busy, server.busy)
        answer = server.behave(body, number)
        with server.lock:
            server.busy -= 1
        if isinstance(answer, str):
            answer = (200, {}, completion(answer))
        status, headers, content = answer
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        try:
            self.wfile.write(data)
        except OSError:  # a client that ran out of patience
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def serving(behave: Callable[[dict[str, Any], int], Any]) -> Iterator[Server]:
    """A server in a thread of this process."""
    with Server(behave) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv(KEY_ENV, KEY)


def ask(urls: str | list[str], *sessions: str, **settings: Any) -> list[Result]:
    """One request a session, one after the other; no retries unless asked for."""

    async def run() -> list[Result]:
        where = [urls] if isinstance(urls, str) else urls
        backend = OpenAIBackend("tiny", where, KEY_ENV, **{"max_retries": 0, **settings})
        turns: Any = [{"role": "user", "content": "hello"}]
        found = []
        for session in sessions or ("",):
            request = Request(
                messages=turns, temperature=0.5, top_p=0.9, max_tokens=9, seed=3, session=session
            )
            found.append(await backend.generate(request))
        await backend.close()
        return found

    return asyncio.run(run())


def test_a_completion_comes_back_with_its_text_and_token_counts() -> None:
    with serving(lambda body, number: "hi there") as server:
        (result,) = ask(server.url)
    assert (result.text, result.finish) == ("hi there", "eot")
    assert (result.prompt_tokens, result.completion_tokens) == (5, 7)


def test_the_sampling_settings_reach_the_server() -> None:
    with serving(lambda body, number: "hi") as server:
        ask(server.url)
    sent = server.requests[0]
    assert sent["messages"] == [{"role": "user", "content": "hello"}]
    assert (sent["model"], sent["temperature"], sent["top_p"]) == ("tiny", 0.5, 0.9)
    assert (sent["max_tokens"], sent["seed"]) == (9, 3)


def refusal(message: str, param: str) -> Any:
    """What OpenAI answers to a setting that a model does not take."""
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": None}
    return 400, {}, {"error": error}


def newer(body: dict[str, Any], number: int) -> Any:
    if "max_tokens" in body:
        text = (
            "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead."
        )
        return refusal(text, "max_tokens")
    if body.get("temperature", 1) != 1:
        text = (
            f"Unsupported value: 'temperature' does not support {body['temperature']} with this "
            "model. Only the default (1) value is supported."
        )
        return refusal(text, "temperature")
    return "hi"


def test_what_a_newer_model_refuses_is_learnt_once(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(newer) as server:
        results = ask(server.url, "a", "b", "c")
    assert [result.text for result in results] == ["hi"] * 3
    assert len(server.requests) == 5  # the first one was sent three times
    assert server.requests[-1]["max_completion_tokens"] == 9
    assert not {"max_tokens", "temperature", "top_p"} & set(server.requests[-1])
    assert capsys.readouterr().err.count("takes no temperature") == 1


def test_another_refusal_that_names_the_setting_is_an_error() -> None:
    text = "max_tokens or max_completion_tokens is too large: 9. The maximum context is 8 tokens"
    with serving(lambda body, number: refusal(text, "max_tokens")) as server:
        (result,) = ask(server.url)
    assert result.finish == "error"
    assert "too large" in result.text
    assert len(server.requests) == 1


def test_the_key_of_the_environment_is_sent_as_bearer() -> None:
    with serving(lambda body, number: "hi") as server:
        ask(server.url)
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"


def test_a_server_without_a_key_gets_a_placeholder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_ENV)
    with serving(lambda body, number: "hi") as server:
        ask(server.url)
    assert server.headers[0]["authorization"] == "Bearer none"


def test_openai_itself_without_a_key_is_refused_before_any_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(KEY_ENV)
    with pytest.raises(UserError, match=f"set {KEY_ENV}"):
        open_backend(
            "openai:x@https://api.openai.com/v1", speaker="assistant", key_env=KEY_ENV, sdk=True
        )


def test_a_cut_completion_finishes_by_length() -> None:
    with serving(lambda body, number: (200, {}, completion("hi th", "length"))) as server:
        assert ask(server.url)[0].finish == "length"


def test_after_429_the_request_is_sent_again() -> None:
    def behave(body: dict[str, Any], number: int) -> Any:
        return "hi" if number else (429, {"Retry-After": "0"}, {"error": {"message": "slow down"}})

    with serving(behave) as server:
        assert ask(server.url, max_retries=1)[0].text == "hi"
    assert len(server.requests) == 2


def test_a_429_that_stays_is_one_error_line_after_the_retries() -> None:
    answer = (429, {"retry-after-ms": "5"}, {"error": {"message": "quota is used up"}})
    with serving(lambda body, number: answer) as server:
        (result,) = ask(server.url, max_retries=2)
    assert len(server.requests) == 3
    assert result.finish == "error"
    assert result.text.startswith("RateLimitError: ")
    assert "quota is used up" in result.text


def test_a_500_is_one_error_line_that_names_the_server() -> None:
    with serving(lambda body, number: (500, {}, {"error": {"message": "out of memory"}})) as server:
        (result,) = ask(server.url)
    assert result.finish == "error"
    assert result.text.startswith(f"InternalServerError: {server.url}")
    assert "out of memory" in result.text


def test_a_proxys_html_page_is_cut_to_one_short_line() -> None:
    page = b"<html>\n<p>" + b"bad gateway " * 500
    with serving(lambda body, number: (502, {"Content-Type": "text/html"}, page)) as server:
        (result,) = ask(server.url)
    assert result.finish == "error"
    assert "\n" not in result.text
    assert len(result.text) < 400


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, b'{"choices": [{"mess'),
        ({}, b""),
        ({}, b"[]"),
        ({}, b"null"),
        ({}, b'"hi"'),
        ({}, {"error": "no such model"}),
        ({}, {**completion("hi"), "choices": []}),
        ({}, {**completion("hi"), "choices": None}),
        ({}, {**completion("hi"), "choices": {"0": "hi"}}),
        ({"Content-Type": "text/html"}, b"<html>log in first</html>"),
        ({"Content-Type": "text/plain"}, b"{"),
        ({}, b"\xff\xfe\xff"),
    ],
)
def test_a_malformed_answer_is_one_error_line(headers: dict[str, str], body: Any) -> None:
    with serving(lambda _, number: (200, headers, body)) as server:
        (result,) = ask(server.url)
    assert result.finish == "error"
    assert server.url in result.text
    assert "\n" not in result.text


@pytest.mark.parametrize(
    "choices",
    [["hi"], [{}], [{"message": None}], [{"message": {"content": None}}], [{"message": "hi"}]],
)
def test_a_choice_without_text_is_an_empty_reply(choices: list[Any]) -> None:
    body = {**completion("hi"), "choices": choices, "usage": None}
    with serving(lambda _, number: (200, {}, body)) as server:
        (result,) = ask(server.url)
    assert (result.text, result.finish, result.prompt_tokens) == ("", "eot", 0)


def test_a_server_slower_than_the_timeout_is_one_error_line() -> None:
    def behave(body: dict[str, Any], number: int) -> str:
        time.sleep(0.6)
        return "hi"

    with serving(behave) as server:
        (result,) = ask(server.url, timeout=0.1)
    assert result.finish == "error"
    assert result.text.startswith("APITimeoutError: ")


def test_an_unknown_host_is_one_clear_line() -> None:
    (result,) = ask("http://no-such-host.invalid/v1")
    assert result.finish == "error"
    assert result.text.startswith("APIConnectionError: http://no-such-host.invalid/v1")
    assert len(result.text.splitlines()) == 1
    assert result.text != "Connection error."


def test_a_key_that_a_server_echoes_is_not_in_the_error() -> None:
    def behave(body: dict[str, Any], number: int) -> Any:
        return 401, {}, {"error": {"message": f"Incorrect key: {KEY}"}}

    with serving(behave) as server:
        (result,) = ask(server.url)
    assert result.text.startswith("AuthenticationError: ")
    assert KEY not in result.text


def test_a_session_stays_with_one_replica() -> None:
    with serving(lambda body, number: "a") as one, serving(lambda body, number: "b") as two:
        for session in ("dialogue-1", "dialogue-2", "dialogue-3", "dialogue-4"):
            assert len({result.text for result in ask([one.url, two.url], *[session] * 4)}) == 1


@pytest.mark.parametrize("step", [1, 2, 4, 10])
def test_regularly_numbered_sessions_use_both_replicas(step: int) -> None:
    with serving(lambda body, number: "a") as one, serving(lambda body, number: "b") as two:
        ask([one.url, two.url], *[f"chat-{number}" for number in range(0, 20 * step, step)])
        assert len(one.requests) + len(two.requests) == 20
        assert min(len(one.requests), len(two.requests)) >= 4


def test_requests_without_a_session_take_turns() -> None:
    with serving(lambda body, number: "a") as one, serving(lambda body, number: "b") as two:
        assert [r.text for r in ask([one.url, two.url], "", "", "", "")] == ["a", "b", "a", "b"]


def test_a_spec_with_two_urls_has_two_replicas() -> None:
    backend = open_backend("openai:m@http://a:1/v1,http://b:2/v1", speaker="assistant", sdk=True)
    assert [str(client.base_url) for client in backend.clients] == [
        "http://a:1/v1/",
        "http://b:2/v1/",
    ]
    asyncio.run(backend.close())
