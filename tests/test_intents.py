"""Facts about the intents stage: what it writes, what it asks, what gets no intent."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from test_openai_backend import completion, serving

from intents_stage import (
    GOOD,
    SERVER_ERROR,
    Stage,
    conversation,
    good,
    subject,
    subjects,
)
from userlm_synth.asking import ATTEMPTS
from userlm_synth.errors import UserError
from userlm_synth.intents.make import check_intents
from userlm_synth.records import (
    INTENT_OPENING,
    read_records,
    to_line,
    write_records,
)

pytestmark = pytest.mark.usefixtures("quick_client")


# ---- what the stage writes -------------------------------------------------------------------


def test_given_intents_are_kept_and_not_asked_for(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [conversation(1, "any words at all"), conversation(2)])
    with serving(good) as server:
        summary = stage(server)
    assert summary == {"kept": 1, "missing": 1, "made": 1, "rejected": {}}
    assert stage.intents() == ["any words at all", f"{INTENT_OPENING} learn about subject 2."]
    assert subjects(server) == [2]


def test_everything_but_the_intent_stays_as_it_was(tmp_path: Path) -> None:
    given_records = [{**conversation(n), "metadata": {"n": n}, "user_id": "u"} for n in range(9)]
    stage = Stage(tmp_path, given_records)
    with serving(good) as server:
        stage(server)
    made = read_records(stage.out, "conversation")
    assert [{**record, "intent": None} for record in made] == given_records
    assert [record["intent"].split()[-1] for record in made] == [f"{n}." for n in range(9)]


def test_the_answers_stay_so_that_added_conversations_cost_only_themselves(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [conversation(1)])
    with serving(good) as server:
        stage(server)
        assert {path.name for path in tmp_path.iterdir()} == {
            "in.jsonl",
            "out.jsonl",
            stage.cache.name,
        }
        server.requests.clear()
        write_records(stage.source, [conversation(n) for n in (1, 2)], "conversation")
        stage(server)
    assert subjects(server) == [2]


def test_the_output_may_replace_the_source(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [conversation(1)])
    stage.out = stage.source
    with serving(good) as server:
        stage(server)
    assert stage.intents() == [f"{INTENT_OPENING} learn about subject 1."]


def test_equal_conversations_are_asked_about_once(tmp_path: Path) -> None:
    def slow(body: dict[str, Any], number: int) -> str:
        time.sleep(0.1)
        return good(body, number)

    twin = {**conversation(1), "id": "twin"}
    stage = Stage(tmp_path, [conversation(1), twin, conversation(2), conversation(3)])
    with serving(slow) as server:
        assert stage(server)["made"] == 4
    assert subjects(server) == [1, 2, 3]


def test_the_same_model_at_another_address_is_not_asked_again(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [conversation(1)])
    with serving(good) as server:
        stage(server)
    with serving(good) as other:
        stage(other)
    assert other.requests == []


def test_without_a_model_complete_conversations_are_copied(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [conversation(1, "x"), conversation(2, "y")])
    assert stage(None) == {"kept": 2, "missing": 0, "made": 0, "rejected": {}}
    assert stage.out.read_bytes() == stage.source.read_bytes()


def test_without_a_model_a_missing_intent_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [conversation(1, "x"), conversation(2), conversation(3)])
    with pytest.raises(UserError) as caught:
        stage(None)
    for part in ("2 of 3", "c2", "--model SPEC"):
        assert part in str(caught.value)
    assert not stage.out.exists()


def test_a_model_that_is_not_needed_is_not_opened(tmp_path: Path) -> None:
    assert Stage(tmp_path, [conversation(1, "x")])("scripted:no-such-file.json")["kept"] == 1


def test_any_kind_of_model_will_do(tmp_path: Path) -> None:
    script = tmp_path / "replies.json"
    script.write_text(json.dumps([GOOD]), encoding="utf-8")
    stage = Stage(tmp_path, [conversation(1), conversation(2)])
    stage(f"scripted:{script}")
    assert stage.intents() == [GOOD, GOOD]


def test_check_intents_counts_what_is_missing() -> None:
    assert check_intents([conversation(1), conversation(2, "x"), conversation(3)]) == 2
    assert check_intents([]) == 0


# ---- attempts --------------------------------------------------------------------------------

LONG = f"{INTENT_OPENING} " + "do this and that " * 13
QUOTE = f"{INTENT_OPENING} ask to Fix my old red bike before the trip, by Sunday."


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("Sure! The user wants something.", "does not begin"),
        ("", "the reply is empty"),
        ("I'm sorry, I cannot help with that.", "the model refused"),
        (f"{INTENT_OPENING} write to jo.doe@example.org again.", "particulars: an e-mail"),
        (f"{INTENT_OPENING} read https://example.org.", "particulars: a web address"),
        (f"{INTENT_OPENING} run ```make``` once.", "particulars: code"),
        (f"{INTENT_OPENING} I'm sorry, but I can't tell.", "refused"),
        (INTENT_OPENING, "says nothing"),
        (LONG, "words, over 60"),
        (QUOTE, "quotes the user: 'fix my old red bike before the trip'"),
        ((200, {}, completion(f"{INTENT_OPENING} get a", "length")), "cut off"),
        ((200, {}, completion(None)), "is empty"),
        ((200, {}, {**completion("x"), "choices": []}), "no choice"),
        ((200, {}, b"{not json"), "not JSON"),
        ((400, {}, {"error": {"message": "filtered"}}), "filtered"),
        (SERVER_ERROR, "broken"),
    ],
)
def test_a_bad_answer_is_asked_for_again(tmp_path: Path, bad: Any, reason: str) -> None:
    text = "tell me about thing 7: fix my old red bike before the trip, please"
    stage = Stage(tmp_path, [conversation(7, text=text)])
    # 500 is sent twice by the client itself, each time we ask
    tries = 2 if bad is SERVER_ERROR else 1
    with serving(lambda body, number: GOOD if number >= tries else bad) as server:
        stage(server)
    assert len(server.requests) == tries + 1
    assert stage.intents() == [GOOD]

    stage.out.unlink()
    stage.cache.unlink()
    with serving(lambda body, number: bad) as server, pytest.raises(UserError, match=reason):
        stage(server)
    assert len(server.requests) == ATTEMPTS * tries
    assert not stage.out.exists()


def test_the_first_attempt_is_greedy_and_the_others_differ(tmp_path: Path) -> None:
    with serving(lambda body, number: "no") as server, pytest.raises(UserError):
        Stage(tmp_path, [conversation(1)])(server)
    assert [body["temperature"] for body in server.requests] == [0.0, 0.7, 0.7]
    assert len({body["seed"] for body in server.requests}) == ATTEMPTS


def test_after_429_the_client_asks_again_by_itself(tmp_path: Path) -> None:
    def behave(body: dict[str, Any], number: int) -> Any:
        return GOOD if number else (429, {"Retry-After": "0"}, {"error": {"message": "slow"}})

    with serving(behave) as server:
        assert Stage(tmp_path, [conversation(1)])(server)["made"] == 1
    assert [body["temperature"] for body in server.requests] == [0.0, 0.0]


def test_no_more_requests_are_open_than_concurrency_allows(tmp_path: Path) -> None:
    def behave(body: dict[str, Any], number: int) -> str:
        time.sleep(0.05)
        return GOOD

    with serving(behave) as server:
        Stage(tmp_path, [conversation(n) for n in range(12)])(server, concurrency=3)
    assert server.most_busy == 3


def test_broken_characters_in_a_reply_do_not_reach_the_record(tmp_path: Path) -> None:
    reply = f"{INTENT_OPENING} fix\ud800 a\0 thing."
    stage = Stage(tmp_path, [conversation(1)])
    with serving(lambda body, number: reply) as server:
        stage(server)
    assert stage.intents() == [f"{INTENT_OPENING} fix a thing."]


# ---- what gets no intent ---------------------------------------------------------------------


def test_with_reject_the_failed_go_aside_with_their_reason(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [conversation(n) for n in range(6)])
    with serving(
        lambda body, n: "no " * 200 if subject(body) in (1, 4) else good(body, n)
    ) as server:
        summary = stage(server, on_error="reject")
        assert summary["made"] == 4
        assert list(summary["rejected"].values()) == [2]
        assert len(stage.intents()) == 4
        aside = [json.loads(line) for line in stage.rejected.read_text().splitlines()]
        assert [one["id"] for one in aside] == ["c1", "c4"]
        assert set(aside[0]) == {"id", "reason", "attempts", "last_reply"}
        assert aside[0]["attempts"] == ATTEMPTS
        assert aside[0]["last_reply"].startswith("no no")
        assert len(aside[0]["last_reply"]) == 200

        server.requests.clear()
        assert stage(server, on_error="reject") == summary  # run again, it costs nothing
        assert server.requests == []

        server.behave = good
        assert stage(server)["made"] == 6  # and "stop" asks again
    assert subjects(server) == [1, 4]
    assert not stage.rejected.exists()


def test_with_reject_a_file_is_not_replaced_by_what_is_left_of_it(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [conversation(1)])
    stage.out = stage.source
    with serving(good) as server, pytest.raises(UserError, match="name another file"):
        stage(server, on_error="reject")
    assert server.requests == []


def test_where_nothing_succeeds_reject_writes_nothing(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [conversation(1)])
    with serving(lambda body, n: "no") as server, pytest.raises(UserError, match="1 of 1"):
        stage(server, on_error="reject")
    assert not stage.out.exists()


def test_every_fault_of_the_file_is_listed_before_anything_is_asked(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [conversation(1)])
    bad = [{**conversation(2), "messages": []}, conversation(1)]
    with stage.source.open("a") as file:
        file.write("".join(map(to_line, bad)))
    with serving(good) as server, pytest.raises(UserError) as caught:
        stage(server)
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"{stage.source}:2: messages: ")
    assert second == f"{stage.source}:3: id: 'c1' is on line 1 too"
    assert server.requests == []


# ---- the opening turn alone ------------------------------------------------------------------


def test_opening_mode_sends_the_first_turn_and_nothing_after_it(tmp_path: Path) -> None:
    record = conversation(1)
    record["messages"] += [
        {"role": "user", "content": "zebra, later turn"},
        {"role": "assistant", "content": "zebra, later reply"},
    ]
    other = {**record, "id": "other", "messages": record["messages"][:1]}
    stage = Stage(tmp_path, [record, other])
    with serving(good) as server:
        stage(server, mode="opening")
        (body,) = server.requests  # one question: the opening turn is the same
        sent = json.dumps(body)
        assert "about thing 1" in sent
        assert "zebra" not in sent
        assert "It is small" not in sent
        server.requests.clear()
        stage(server, mode="whole")
        assert "zebra, later reply" in json.dumps(server.requests)
        assert server.requests[0]["messages"] != body["messages"]
