"""Servers that fail, and the intents stage."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from test_openai_backend import KEY, completion, serving

from intents_stage import (
    Stage,
    conversation,
    good,
    subject,
    subjects,
)
from userlm_synth.asking import ATTEMPTS, asker
from userlm_synth.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_client")


def test_an_unknown_host_is_one_line_and_leaves_no_file(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [conversation(n) for n in range(50)])
    with pytest.raises(UserError) as caught:
        stage("openai:tiny@http://no-such-host.invalid/v1", concurrency=2)
    assert "http://no-such-host.invalid/v1" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


@pytest.mark.parametrize("status", [401, 403, 404, 429])
def test_an_error_that_concerns_every_request_stops_the_run(tmp_path: Path, status: int) -> None:
    error = {"error": {"message": "not any more, insufficient_quota"}}

    def behave(body: dict[str, Any], number: int) -> Any:
        return good(body, number) if subject(body) < 3 else (status, {"retry-after-ms": "1"}, error)

    stage = Stage(tmp_path, [conversation(n) for n in range(50)])
    with serving(behave) as server:
        with pytest.raises(UserError, match="not any more") as caught:
            stage(server, concurrency=1)
        assert "3 of 50 conversations are done, 47 are left" in str(caught.value)
        assert f"kept in {stage.cache}" in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
        assert len(server.requests) <= 5
        server.requests.clear()
        server.behave = good
        assert stage(server)["made"] == 50
    assert subjects(server) == list(range(3, 50))


def test_a_server_that_is_overloaded_for_a_while_is_waited_for(tmp_path: Path) -> None:
    busy = (429, {"retry-after-ms": "1"}, {"error": {"message": "too many requests"}})
    stage = Stage(tmp_path, [conversation(n) for n in range(8)])
    with serving(lambda body, n: good(body, n) if n < 2 or n > 12 else busy) as server:
        assert stage(server, concurrency=2)["made"] == 8
    assert {body["temperature"] for body in server.requests} == {0.0}  # no attempt was used up


def test_a_server_that_stays_overloaded_stops_the_run(tmp_path: Path) -> None:
    busy = (429, {"retry-after-ms": "1"}, {"error": {"message": "too many requests"}})
    stage = Stage(tmp_path, [conversation(n) for n in range(8)])
    with (
        serving(lambda body, n: good(body, n) if n < 2 else busy) as server,
        pytest.raises(UserError, match="too many requests"),
    ):
        stage(server, concurrency=1)
    assert len(server.requests) == 2 + 2 * (asker.PATIENCE + 1)  # the client itself tries twice


def test_answers_under_way_when_a_run_stops_are_kept(tmp_path: Path) -> None:
    def behave(body: dict[str, Any], number: int) -> Any:
        if subject(body) == 0:
            return 401, {}, {"error": {"message": "no"}}
        time.sleep(0.3)
        return good(body, number)

    stage = Stage(tmp_path, [conversation(n) for n in range(20)])
    with serving(behave) as server, pytest.raises(UserError, match="3 of 20 conversations"):
        stage(server, concurrency=4)
    assert stage.cache.read_text().count('"answer"') == 3


def test_a_model_that_talks_before_it_answers_gets_more_room_next_time(tmp_path: Path) -> None:
    def behave(body: dict[str, Any], number: int) -> Any:
        return (
            good(body, number) if body["max_tokens"] > 1000 else (200, {}, completion("", "length"))
        )

    with serving(behave) as server:
        assert Stage(tmp_path, [conversation(1)])(server)["made"] == 1
    assert [body["max_tokens"] for body in server.requests] == [512, 2048]


def test_a_server_that_never_answers_well_is_given_up_after_some_conversations(
    tmp_path: Path,
) -> None:
    stage = Stage(tmp_path, [conversation(n) for n in range(100)])
    refusal: Any = (400, {}, {"error": {"message": "unsupported parameter"}})
    with serving(lambda body, n: refusal) as server, pytest.raises(UserError, match="unsupported"):
        stage(server, concurrency=1)
    assert len(server.requests) == asker.HOPELESS_COUNT * ATTEMPTS


def test_a_model_that_never_gives_an_intent_is_given_up_too(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [conversation(n) for n in range(100)])
    with serving(lambda body, n: "no") as server, pytest.raises(UserError, match="none answered"):
        stage(server, concurrency=1)
    assert len(server.requests) == asker.HOPELESS_COUNT * ATTEMPTS


def test_the_key_is_sent_as_bearer_and_written_to_no_file(tmp_path: Path) -> None:
    def behave(body: dict[str, Any], number: int) -> Any:
        if subject(body) == 1:
            return 400, {}, {"error": {"message": f"bad key {KEY}"}}
        return good(body, number)

    stage = Stage(tmp_path, [conversation(1), conversation(2)])
    with serving(behave) as server:
        with pytest.raises(UserError) as caught:
            stage(server)
        assert KEY not in str(caught.value)
        files = [path.read_bytes() for path in tmp_path.rglob("*")]
        server.behave = good
        stage(server)
    files += [path.read_bytes() for path in tmp_path.rglob("*")]
    assert len(files) == 5  # in and cache, then in, cache and out
    assert not any(KEY.encode() in data for data in files)
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {KEY}"}


def test_two_urls_share_the_work(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [conversation(n) for n in range(20)])
    with serving(good) as one, serving(good) as two:
        assert stage(f"openai:tiny@{one.url},{two.url}")["made"] == 20
    assert sorted(subjects(one) + subjects(two)) == list(range(20))
    assert min(len(one.requests), len(two.requests)) >= 4
