"""Facts about the client of OpenAI-compatible servers, against small real servers: faults and
retries, replicas, keys. How a user LM is asked is in test_http_user.py."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import pytest
from http_toys import CUT, HANG, RESET, Toy, chat, listing, toy
from hypothesis import given
from hypothesis import strategies as st

from userlm_synth.backends import Request, Result, http_api, open_backend
from userlm_synth.backends.http_api import _asked_wait
from userlm_synth.backends.openai_server import OpenAIServer
from userlm_synth.backends.replicas import Replica, Replicas
from userlm_synth.errors import UserError
from userlm_synth.recipe import Server

KEY_ENV, KEY = "USERLM_SYNTH_TEST_KEY", "sk-test-9f2c71d0b8"
HELLO: Any = [{"role": "user", "content": "hello"}]
GONE = "http://127.0.0.1:9/v1"  # nobody listens there


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key, no proxy, hardly a wait."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv(KEY_ENV, KEY)
    monkeypatch.setattr(http_api, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(http_api, "START_WAITS", (0.01,))


def opened(*servers: Toy | str, speaker: str = "assistant", **settings: Any) -> OpenAIServer:
    urls = ",".join(one if isinstance(one, str) else one.url for one in servers)
    backend: OpenAIServer = open_backend(
        f"openai:tiny@{urls}", speaker=speaker, key_env=KEY_ENV,
        server=Server(**{"retries": 3, "timeout": 5.0, **settings}),
    )  # fmt: skip
    return backend


def ask_all(backend: OpenAIServer, *sessions: str, start: bool = True) -> list[Any]:
    """One request a session, one after the other: results, or the error that stopped them."""

    async def run() -> list[Any]:
        found: list[Any] = []
        try:
            if start:
                await backend.start()
            for session in sessions or ("",):
                found.append(await backend.generate(request(session=session)))
        except UserError as error:
            found.append(error)
        finally:
            await backend.close()
        return found

    return asyncio.run(run())


def request(**more: Any) -> Request:
    defaults = {"messages": HELLO, "temperature": 0.5, "top_p": 0.9, "max_tokens": 9, "seed": 3}
    return Request(**{**defaults, **more})


def refused(message: str, **more: Any) -> Any:
    return {"error": {"message": message, "type": "invalid_request_error", **more}}


# ---- what is sent and what comes back ----------------------------------------------------------


def test_an_assistants_request_and_its_reply() -> None:
    with toy(chat(" hi there")) as server:
        backend = opened(server)
        (result,) = ask_all(backend)
    assert result == Result(" hi there", "eot", [], 50, 7, 32)
    assert server.requests == [
        (
            "/v1/chat/completions",
            {
                "model": "tiny", "messages": HELLO, "temperature": 0.5, "top_p": 0.9,
                "max_tokens": 9, "seed": 3,
            },
        )
    ]  # fmt: skip
    assert [one["Authorization"] for one in server.headers] == [f"Bearer {KEY}"] * 2
    assert (backend.name, backend.first_token, backend.form) == (
        "openai:tiny", "regenerate", None,
    )  # fmt: skip


def test_a_vllm_server_gets_every_sampling_field_and_says_its_context() -> None:
    with toy(chat("hi"), listing("tiny", owned_by="vllm", max_model_len=2048)) as server:
        backend = opened(server)
        ask_all(backend)
    sent = server.bodies[0]
    assert (sent["top_k"], sent["min_p"], sent["repetition_penalty"]) == (-1, 0.0, 1.0)
    assert (sent["presence_penalty"], sent["frequency_penalty"]) == (0.0, 0.0)
    assert backend.context == 2048


@pytest.mark.parametrize(
    ("answer", "finish"),
    [
        (chat("hi th", "length"), "length"),
        (chat(None), "eot"),
        (chat("", "content_filter"), "error"),
    ],
)
def test_how_a_reply_ended(answer: Any, finish: str) -> None:
    with toy(answer) as server:
        assert ask_all(opened(server))[0].finish == finish


def test_without_a_key_none_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_ENV)
    with toy(chat("hi")) as server:
        ask_all(opened(server))
    assert "Authorization" not in server.headers[0]


def test_openai_itself_without_a_key_is_refused_before_any_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(KEY_ENV)
    with pytest.raises(UserError, match=f"set {KEY_ENV}"):
        opened("https://api.openai.com/v1")


@pytest.mark.parametrize("url", ["http://", "http://a:port/v1", "http://[::1/v1"])
def test_an_address_that_is_none_is_one_line(url: str) -> None:
    with pytest.raises(UserError, match="no address of a server"):
        opened(url)


# ---- faults that pass --------------------------------------------------------------------------

BAD = [
    (429, {"Retry-After": "0"}, refused("slow down")),
    (500, {}, refused("out of memory")),
    (502, {"Content-Type": "text/html"}, b"<html>bad gateway</html>"),
    (503, {}, b""),
    (504, {}, {"detail": "too slow"}),
    (408, {}, {}),
    (409, {}, []),
    RESET,
    CUT,
    HANG,
    b'{"choices": [{"mess',
    b"",
    b"\xff\xfe",
    [],
    None,
    {"foo": 1},
    {"choices": []},
    {"choices": None},
    {"choices": ["hi"]},
    {"choices": [{"message": {"role": "assistant"}}]},
    {"choices": [{"message": {"content": 5}}]},
    {"error": {"message": "upstream is away"}},
    chat("hi th", "abort"),
]


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_a_fault_that_passes_is_tried_again(bad: Any) -> None:
    with toy(lambda path, body, number: chat("hi") if number else bad) as server:
        backend = opened(server, timeout=0.3 if bad == HANG else 5.0)
        (result,) = ask_all(backend)
    assert (result.text, result.finish) == ("hi", "eot")
    assert server.bodies[0] == server.bodies[1]
    status = bad[0] if isinstance(bad, tuple) else 200
    assert backend.signals.retries == len(server.requests) - 1 == 1
    assert backend.signals.throttled == (status in (429, 503))


@pytest.mark.parametrize("headers", [{"Retry-After": "0.3"}, {"retry-after-ms": "300"}])
def test_a_server_that_asks_for_a_pause_gets_it(headers: Any) -> None:
    busy = (429, headers, refused("slow down"))
    with toy(lambda path, body, number: chat("hi") if number else busy) as server:
        begun = time.monotonic()
        assert ask_all(opened(server))[0].text == "hi"
    assert 0.3 <= time.monotonic() - begun < 1.5


def test_a_pause_may_be_asked_for_as_a_date() -> None:
    date = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=90), usegmt=True)
    assert _asked_wait({"Retry-After": date}) == pytest.approx(90, abs=2)


@pytest.mark.parametrize("text", ["", "soon", "-5", "Mon, 01 Jan 1990 00:00:00 GMT", "1e999", "²"])
def test_a_pause_that_makes_no_sense_is_none(text: str) -> None:
    assert _asked_wait({"Retry-After": text}) is None


def test_pauses_grow_are_jittered_and_end_at_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_api, "FIRST_WAIT", 0.5)
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(http_api.asyncio, "sleep", note)
    backend = opened(GONE)

    async def run() -> None:
        for attempt in range(1, 12):
            await backend.client._pause(attempt, http_api.Trouble("x"))

    asyncio.run(run())
    for attempt, wait in enumerate(waits):
        longest = min(60.0, 0.5 * 2**attempt)
        assert longest / 2 <= wait <= longest
    assert len(set(waits)) == len(waits)


def test_one_request_without_a_good_answer_is_an_error_where_others_had_one() -> None:
    with toy(lambda path, body, number: refusing(number)) as server:
        backend = opened(server, retries=2)
        good, bad, again = ask_all(backend, "a", "b", "c")
    assert (good.finish, again.finish) == ("eot", "eot")
    assert bad.finish == "error"
    assert "500: out of memory" in bad.text
    assert server.url in bad.text
    assert backend.signals.retries == 2


def refusing(number: int) -> Any:
    return (500, {}, refused("out of memory")) if 1 <= number <= 3 else chat("hi")


def test_a_server_that_never_answers_well_stops_the_run() -> None:
    with toy((500, {}, refused("out of memory"))) as server:
        (error,) = ask_all(opened(server, retries=2))
    assert isinstance(error, UserError)
    assert "the server does not answer" in str(error)
    assert "out of memory" in str(error)
    assert "run the same command again" in str(error)
    assert len(server.requests) == 3


def test_a_server_that_went_away_stops_the_run() -> None:
    async def run(server: Toy) -> OpenAIServer:
        backend = opened(server, retries=2)
        await backend.start()
        assert (await backend.generate(request())).text == "hi"
        return backend

    async def both() -> str:
        with toy(chat("hi")) as server:
            backend = await run(server)
        try:
            with pytest.raises(UserError) as caught:
                await backend.generate(request())
            return str(caught.value)
        finally:
            await backend.close()

    assert "the server does not answer (http://127.0.0.1" in asyncio.run(both())


def test_close_ends_a_request_that_waits() -> None:
    async def run(server: Toy) -> None:
        backend = opened(server)
        await backend.start()
        waiting = asyncio.create_task(backend.generate(request()))
        while not server.requests:
            await asyncio.sleep(0.01)
        await backend.close()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(waiting, 2)

    with toy(HANG) as server:
        asyncio.run(run(server))
    assert len(server.requests) == 1


# ---- what stops every request ------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_stops_the_run_after_one_request_and_is_never_shown(status: int) -> None:
    with toy((status, {}, refused(f"Incorrect key: {KEY}"))) as server:
        backend = opened(server)

        async def run() -> list[Any]:
            await backend.start()
            first = await asyncio.gather(backend.generate(request()), return_exceptions=True)
            later = [backend.generate(request()) for _ in range(5)]
            found = first + await asyncio.gather(*later, return_exceptions=True)
            await backend.close()
            return found

        errors = asyncio.run(run())
    assert len(server.requests) == 1
    assert all(isinstance(error, UserError) for error in errors)
    assert f"the key in the environment variable {KEY_ENV}" in str(errors[0])
    assert KEY not in "".join(map(str, errors))


def test_a_wrong_key_shows_at_the_start_where_the_list_of_models_needs_one() -> None:
    with toy(chat("hi"), (401, {}, refused("no"))) as server:
        (error,) = ask_all(opened(server))
    assert KEY_ENV in str(error)
    assert not server.requests


@pytest.mark.parametrize("status", [400, 500])
def test_a_key_that_a_server_echoes_is_in_no_result(status: int) -> None:
    with toy(lambda path, body, number: echo(status, number)) as server:
        _, result = ask_all(opened(server, retries=0), "a", "b")
    assert result.finish == "error"
    assert "(key)" in result.text
    assert KEY not in result.text


def echo(status: int, number: int) -> Any:
    return (status, {}, refused(f"for {KEY}: no")) if number else chat("hi")


@pytest.mark.parametrize(
    "answer",
    [(429, {}, refused("You exceeded", code="insufficient_quota")), (402, {}, refused("Pay"))],
)
def test_an_account_without_credit_stops_the_run_at_once(answer: Any) -> None:
    with toy(answer) as server:
        (error,) = ask_all(opened(server))
    assert "no credit is left" in str(error)
    assert len(server.requests) == 1


def test_a_model_that_vllm_does_not_have_is_told_at_the_start_with_those_it_has() -> None:
    with toy(chat("hi"), listing("one", "two", owned_by="vllm")) as server:
        (error,) = ask_all(opened(server))
    assert str(error).endswith("has no model 'tiny'; it has: one, two")
    assert not server.requests


def test_a_model_that_other_servers_do_not_have_is_told_at_the_start() -> None:
    answer = (404, {}, refused("The model `tiny` does not exist"))
    with toy(answer, listing(*"abcdefghijkl")) as server:
        (error,) = ask_all(opened(server))
    assert str(error).endswith("it has: a, b, c, d, e, f, g, h, i, j and 2 more")


def test_a_name_that_a_server_takes_without_listing_it_is_fine() -> None:
    with toy(chat("hi"), listing("models/tiny-001")) as server:
        (result,) = ask_all(opened(server))
    assert result.text == "hi"


def test_a_model_that_goes_away_later_stops_the_run_with_the_list() -> None:
    with toy((404, {}, refused("The model `tiny` does not exist"))) as server:
        server.models = listing("other")
        (error,) = ask_all(opened(server), start=False)
    assert str(error).endswith("has no model 'tiny'; it has: other")


def test_an_address_without_v1_says_so() -> None:
    with toy((404, {}, {"detail": "Not Found"}), (404, {}, {})) as server:
        (error,) = ask_all(opened(server))
    assert "/chat/completions: not found (Not Found)" in str(error)
    assert "/v1 at its end" in str(error)


def test_a_server_that_moved_says_where_to() -> None:
    with toy((308, {"Location": "https://new.example/v1"}, b"")) as server:
        (error,) = ask_all(opened(server))
    assert "moved to https://new.example/v1" in str(error)


def test_a_server_that_is_not_there_is_one_line_at_the_start() -> None:
    (error,) = ask_all(opened(GONE))
    assert f"{GONE}: the server is not there" in str(error)
    assert len(str(error).splitlines()) == 1


def test_a_password_in_the_address_is_not_shown() -> None:
    (error,) = ask_all(opened("http://me:secret@127.0.0.1:9/v1"))
    assert "secret" not in str(error)


# ---- what concerns one request -----------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "This model's maximum context length is 2048 tokens. However, your prompt contains 4200",
        "The decoder prompt (length 9000) is longer than the maximum model length of 8192.",
        "the request exceeds the available context size, try increasing it",
        "Requested token count exceeds the model's maximum context length of 8192 tokens.",
        "prompt is too long: 210000 tokens > 200000 maximum",
    ],
)
@pytest.mark.parametrize("status", [400, 422])
def test_a_prompt_that_is_too_long_is_its_own_ending(text: str, status: int) -> None:
    with toy((status, {}, refused(text))) as server:
        (result,) = ask_all(opened(server))
    assert (result.text, result.finish) == ("", "context_full")
    assert len(server.requests) == 1


def test_openais_code_for_a_full_context_is_enough() -> None:
    with toy((400, {}, refused("Too long.", code="context_length_exceeded"))) as server:
        assert ask_all(opened(server))[0].finish == "context_full"


def test_another_refusal_is_one_short_error_line_and_not_tried_again() -> None:
    with toy((400, {}, refused("bad\nrequest " * 100))) as server:
        (result,) = ask_all(opened(server))
    assert result.finish == "error"
    assert result.text.startswith("bad request")
    assert len(result.text) <= 300
    assert len(server.requests) == 1


def newer(path: str, body: Any, number: int) -> Any:
    """A newer model of OpenAI."""
    if "max_tokens" in body:
        text = "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        return 400, {}, refused(f"Unsupported parameter: {text}")
    if "temperature" in body:
        return 400, {}, refused("Unsupported value: 'temperature' does not support 0.5")
    if "seed" in body:
        return 422, {}, {"detail": "body.seed: Extra inputs are not permitted"}
    return chat("hi")


def test_what_a_server_does_not_take_is_learnt_once(capsys: pytest.CaptureFixture[str]) -> None:
    with toy(newer) as server:
        results = ask_all(opened(server), "a", "b", "c")
    assert [result.text for result in results] == ["hi"] * 3
    assert len(server.requests) == 6  # the first one was sent four times
    last = server.bodies[-1]
    assert last == {"model": "tiny", "messages": HELLO, "max_completion_tokens": 9}
    assert capsys.readouterr().err.count("takes no temperature") == 1


# ---- replicas ----------------------------------------------------------------------------------


def replicas(count: int = 3) -> Replicas:
    return Replicas([Replica("x", f"http://host-{place}:1/v1") for place in range(count)])


@given(st.lists(st.integers(0, 40), min_size=1, max_size=60))
def test_a_session_stays_while_the_load_is_even(numbers: list[int]) -> None:
    some = replicas()
    for replica in some.all:
        replica.open = 20
    homes = {number: some.pick(f"chat-{number}") for number in numbers}
    assert all(some.pick(f"chat-{number}") is homes[number] for number in numbers)


@pytest.mark.parametrize("step", [1, 2, 4, 10])
def test_regularly_numbered_sessions_use_every_replica(step: int) -> None:
    some = replicas(2)
    picked = [some.pick(f"chat-{number}") for number in range(0, 20 * step, step)]
    assert min(picked.count(replica) for replica in some.all) >= 4


def test_a_session_of_an_overloaded_replica_moves_and_stays_at_its_new_place() -> None:
    some = replicas()
    home = some.pick("chat")
    home.open = 9
    new = some.pick("chat")
    assert new is not home
    home.open = 0
    assert some.pick("chat") is new


def test_requests_without_a_session_go_where_least_is_open() -> None:
    some = replicas()
    some.all[0].open = some.all[2].open = 5
    assert some.pick("") is some.all[1]


def test_the_places_of_moved_sessions_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("userlm_synth.backends.replicas.MOST_MOVED", 10)
    some = replicas(2)
    some.all[0].open = 100
    for number in range(100):
        assert some.pick(f"chat-{number}") is some.all[1]
    assert len(some.moved) == 10


def test_a_session_stays_with_one_server_and_both_servers_get_some() -> None:
    sessions = [f"chat-{number}" for number in range(8)] * 3
    with toy(chat("a")) as one, toy(chat("b")) as two:
        results = ask_all(opened(one, two), *sessions)
    places = dict(zip(sessions, [result.text for result in results], strict=False))
    assert [result.text for result in results] == [places[session] for session in sessions]
    assert set(places.values()) == {"a", "b"}


def test_sessions_of_a_server_that_is_not_there_go_to_the_others_without_a_wait(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(http_api, "FIRST_WAIT", 60.0)
    with toy(chat("a")) as one:
        results = ask_all(opened(one, GONE), *[f"chat-{number}" for number in range(8)])
    assert [result.text for result in results] == ["a"] * 8
    assert f"{GONE}: the server is not there" in capsys.readouterr().err


def test_two_servers_that_are_not_there_are_an_error() -> None:
    assert "not there" in str(ask_all(opened(GONE, "http://127.0.0.1:11/v1"))[0])


def queue(count: int) -> str:
    return (
        "# HELP vllm:num_requests_waiting Number of requests\n"
        f'vllm:num_requests_waiting{{engine="0",model_name="tiny"}} {count}.0\n'
        f'vllm:num_requests_waiting{{engine="1",model_name="tiny"}} 1.0\n'
        'vllm:num_requests_waiting_by_reason{reason="capacity"} 40.0\n'
    )


def waiting(*servers: Toy | str) -> int | None:
    async def run() -> int | None:
        backend = opened(*servers)
        try:
            first = await backend.waiting()
            assert await backend.waiting() == first
            return first
        finally:
            await backend.close()

    return asyncio.run(run())


def test_queued_requests_are_summed_over_engines_and_servers() -> None:
    with toy(chat("a"), metrics=queue(5)) as one, toy(chat("b"), metrics=queue(2)) as two:
        assert waiting(one, two) == 9
        assert waiting(one, GONE) == 6


def test_a_server_without_figures_tells_no_queue() -> None:
    with toy(chat("a")) as one, toy(chat("b"), metrics="llamacpp:requests 3\n") as two:
        assert waiting(one, two) is None
        assert (one.looks, two.looks) == (1, 1)  # nor is it asked again
        assert waiting(GONE) is None
