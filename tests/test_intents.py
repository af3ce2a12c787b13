"""Facts about the intents stage, driven through the real client against a small real server."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from test_openai_backend import KEY, KEY_ENV, Server, completion, serving

from userlm_synth.backends.openai_api import OpenAIBackend
from userlm_synth.cli import main
from userlm_synth.errors import UserError
from userlm_synth.intents import asking, make_intents, prompts
from userlm_synth.intents.asking import ATTEMPTS
from userlm_synth.intents.make import check_intents
from userlm_synth.pipeline import Run, validate_run
from userlm_synth.recipe import Intents, build_recipe
from userlm_synth.records import (
    INTENT_OPENING,
    Record,
    read_records,
    to_line,
    write_json,
    write_records,
)

GOOD = f"{INTENT_OPENING} sort out a small matter."
SUBJECT = re.compile(r"about thing (\d+)")
SERVER_ERROR = (500, {"retry-after-ms": "1"}, {"error": {"message": "broken"}})


def conversation(number: int, intent: str | None = None, text: str = "") -> Record:
    turns = [("user", text or f"tell me about thing {number}"), ("assistant", "It is small.")]
    return {
        "id": f"c{number}",
        "source": "test",
        "user_id": None,
        "language": "en",
        "intent": intent,
        "persona": None,
        "messages": [{"role": role, "content": content} for role, content in turns],
        "metadata": {},
    }


def subject(body: dict[str, Any]) -> int:
    """Which conversation a request is about."""
    return int(SUBJECT.findall(body["messages"][-1]["content"])[-1])


def subjects(server: Server) -> list[int]:
    return sorted(map(subject, server.requests))


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv(KEY_ENV, KEY)
    # The real client with its default of five retries would wait 15 s for a server that is gone.
    defaults: Any = OpenAIBackend.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "max_retries", 1)
    monkeypatch.setattr(asking, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(asking, "BACKOFF", 0.01)


class Stage:
    """`make_intents` on a source in a folder of its own."""

    def __init__(self, folder: Path, records: list[Record]) -> None:
        self.source, self.out = folder / "in.jsonl", folder / "out.jsonl"
        self.cache = folder / "out.jsonl.cache.jsonl"
        self.rejected = folder / "out.jsonl.rejected.jsonl"
        write_records(self.source, records, "conversation")

    def __call__(self, where: Server | str | None, concurrency: int = 4, **more: Any) -> Record:
        model = f"openai:tiny@{where.url}" if isinstance(where, Server) else where
        settings = model and Intents(model, concurrency=concurrency, api_key_env=KEY_ENV, **more)
        return make_intents(self.source, self.out, settings or None)

    def intents(self) -> list[str | None]:
        return [record["intent"] for record in read_records(self.out, "conversation")]


Behaviour = Callable[[dict[str, Any], int], Any]


def good(body: dict[str, Any], number: int) -> str:
    return f"{INTENT_OPENING} learn about subject {subject(body)}."


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


# ---- failing and going on --------------------------------------------------------------------


def test_after_failures_a_rerun_asks_only_for_those(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [conversation(n) for n in range(10)])
    with serving(lambda body, n: "no" if subject(body) in (3, 5) else good(body, n)) as server:
        with pytest.raises(UserError) as caught:
            stage(server)
        for part in ("2 of 10", "c3", "does not begin", str(stage.cache), "--on-error reject"):
            assert part in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
        assert not stage.out.exists()
        server.requests.clear()
        server.behave = good
        summary = stage(server)
    assert subjects(server) == [3, 5]
    assert summary == {"kept": 0, "missing": 10, "made": 10, "rejected": {}}


def test_the_cache_holds_answers_and_faulty_ones_with_their_tokens(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [conversation(1), conversation(2)])
    with (
        serving(lambda body, n: "no" if subject(body) == 1 else GOOD) as server,
        pytest.raises(UserError),
    ):
        stage(server, concurrency=1)
    entries = [json.loads(line) for line in stage.cache.read_text().splitlines()]
    assert [(one["id"], one.get("reply"), one.get("answer")) for one in entries] == [
        *[("c1", "no", None)] * ATTEMPTS,
        ("c2", None, GOOD),
    ]
    assert {tuple(one["tokens"]) for one in entries} == {(5, 7)}


def fail_one(tmp_path: Path, server: Server) -> Stage:
    """A stage where 1 is answered and kept and 2 has failed; the server is good from now on."""
    stage = Stage(tmp_path, [conversation(1), conversation(2)])
    server.behave = lambda body, n: "no" if subject(body) == 2 else good(body, n)
    with pytest.raises(UserError):
        stage(server)
    server.requests.clear()
    server.behave = good
    return stage


@pytest.mark.parametrize(
    "torn", [b'{"id":"c9","key":"12', b'{"id":"\xc3', b"[1]", b"\0\0\0\0", b"5"]
)
def test_a_torn_last_line_spoils_neither_what_is_before_nor_after(
    tmp_path: Path, torn: bytes
) -> None:
    with serving(good) as server:
        stage = fail_one(tmp_path, server)
        with stage.cache.open("ab") as file:
            file.write(torn)
        server.behave = lambda body, n: good(body, n) if subject(body) == 2 else "no"
        records = [conversation(n) for n in (1, 2, 3)]
        write_records(stage.source, records, "conversation")
        with pytest.raises(UserError, match="c3"):  # 2 is appended after the torn line
            stage(server)
        server.behave = good
        server.requests.clear()
        stage(server)
    assert subjects(server) == [3]


def test_an_answer_torn_from_its_line_is_asked_for_again(tmp_path: Path) -> None:
    with serving(good) as server:
        stage = fail_one(tmp_path, server)
        (answer,) = (line for line in stage.cache.read_bytes().splitlines() if b'"answer"' in line)
        stage.cache.write_bytes(answer[:-9])
        stage(server)
    assert subjects(server) == [1, 2]


def test_another_text_or_model_or_mode_or_prompt_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(good) as server:
        stage = fail_one(tmp_path, server)
        kept = stage.cache.read_bytes()

        def asked(name: str = "tiny", mode: str = "whole") -> list[int]:
            server.requests.clear()
            stage.cache.write_bytes(kept)
            stage(f"openai:{name}@{server.url}", mode=mode)
            return subjects(server)

        assert asked("other") == [1, 2]
        assert asked() == [2]
        assert asked(mode="opening") == [1, 2]
        with monkeypatch.context() as patch:
            patch.setitem(prompts.INSTRUCTIONS, "whole", "Please say what they want.")
            assert asked() == [1, 2]
        changed = conversation(1, text="please tell me about thing 1")
        write_records(stage.source, [changed, conversation(2)], "conversation")
        assert asked() == [1, 2]


def test_a_run_killed_at_random_moments_asks_for_nothing_twice(tmp_path: Path) -> None:
    def slow(body: dict[str, Any], number: int) -> str:
        time.sleep(0.03)
        return good(body, number)

    code = (
        "import sys; from pathlib import Path; from userlm_synth.intents import make_intents\n"
        "from userlm_synth.recipe import Intents\n"
        "source, out, model, key = sys.argv[1:]\n"
        "settings = Intents(model, concurrency=4, api_key_env=key)\n"
        "make_intents(Path(source), Path(out), settings)"
    )
    total, kills = 50, 0
    stage = Stage(tmp_path, [conversation(n) for n in range(total)])
    moments = random.Random(7)
    with serving(slow) as server:
        arguments = [str(stage.source), str(stage.out), f"openai:tiny@{server.url}", KEY_ENV]
        while not stage.out.exists():
            with subprocess.Popen([sys.executable, "-c", code, *arguments]) as process:
                before = len(server.requests)
                while process.poll() is None and len(server.requests) == before:
                    time.sleep(0.01)
                time.sleep(moments.uniform(0.05, 0.3))
                if process.poll() is None and kills < 2:
                    process.send_signal(signal.SIGKILL)
                    kills += 1
            assert process.returncode in (0, -signal.SIGKILL)
        assert kills >= 1
        assert total <= len(server.requests) <= total + 4 * kills
    assert stage.intents() == [f"{INTENT_OPENING} learn about subject {n}." for n in range(total)]


def test_two_runs_with_one_cache_are_refused_by_one_line(tmp_path: Path) -> None:
    stage, second = Stage(tmp_path, [conversation(1)]), []

    def behave(body: dict[str, Any], number: int) -> str:
        with pytest.raises(UserError, match="another run is at work") as caught:
            stage(server)
        second.append(str(caught.value))
        return GOOD

    with serving(behave) as server:
        stage(server)
    assert len(second[0].splitlines()) == 1
    assert str(stage.cache) in second[0]


def test_one_cache_may_serve_several_files(tmp_path: Path) -> None:
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    write_records(one, [conversation(n) for n in (1, 2)], "conversation")
    write_records(two, [conversation(n) for n in (2, 3)], "conversation")
    with serving(good) as server:
        settings = Intents(f"openai:tiny@{server.url}", api_key_env=KEY_ENV)
        for source in (one, two):
            out = source.with_suffix(".out")
            make_intents(source, out, settings, cache=tmp_path / "shared.jsonl")
    assert subjects(server) == [1, 2, 3]


def test_the_output_does_not_depend_on_concurrency(tmp_path: Path) -> None:
    texts = ["" if n < 20 else f"what about thing {n % 10}" for n in range(30)]  # some are equal
    records = [{**conversation(n % 15, text=texts[n]), "id": f"r{n}"} for n in range(30)]
    stage = Stage(tmp_path, records)

    def behave(body: dict[str, Any], number: int) -> str:
        return "no" if subject(body) % 7 == 3 else good(body, number)

    found = set()
    with serving(behave) as server:
        for concurrency in (1, 4, 16):
            stage.cache.unlink(missing_ok=True)
            stage(server, concurrency, on_error="reject")
            found.add((stage.out.read_bytes(), stage.rejected.read_bytes()))
    assert len(found) == 1


def test_a_recipes_splits_share_one_cache_and_every_record_file_is_valid(tmp_path: Path) -> None:
    chats, out = tmp_path / "run" / "conversations", tmp_path / "run"
    chats.mkdir(parents=True)
    for place, split in enumerate(("train", "validation", "test")):
        records = [conversation(n) for n in (place, place + 1)]  # neighbours share one
        write_records(chats / f"{split}.jsonl", records, "conversation")

    def behave(body: dict[str, Any], number: int) -> str:
        return "no" if subject(body) == 3 else good(body, number)

    with serving(behave) as server:
        model = {"model": f"openai:tiny@{server.url}", "on_error": "reject", "api_key_env": KEY_ENV}
        given = {"name": "r", "conversations": {"source": "quickstart"}, "intents": model}
        summary = Run(build_recipe(given), out)._intents()
    assert sorted(set(subjects(server))) == [0, 1, 2, 3]
    assert len(server.requests) == 3 + ATTEMPTS
    assert [summary[split]["made"] for split in ("train", "validation", "test")] == [2, 2, 1]
    write_json(
        out / "manifest.json", {"recipe": "r", "recipe_hash": "h", "version": "1", "stages": {}}
    )
    assert validate_run(out) == 6 + 5 + 1
    assert (out / "intents" / "rejected" / "test.jsonl").exists()


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


# ---- money -----------------------------------------------------------------------------------

READ, WRITTEN = 150.0, 600.0  # USD a million tokens: high, so that little text costs much


def priced(prompt_tokens: int, completion_tokens: int) -> float:
    return (prompt_tokens * READ + completion_tokens * WRITTEN) / 1e6


class Till:
    """A server's bill: every answer counts, good or not."""

    def __init__(self) -> None:
        self.total = 0.0
        self.lock = threading.Lock()

    def __call__(self, body: dict[str, Any], number: int) -> Any:
        read = len(body["messages"][0]["content"].encode())  # the most a tokenizer can make of it
        written = 40 + number % 300
        with self.lock:
            self.total += priced(read, written)
        answer = completion(
            good(body, number) if body["temperature"] or subject(body) % 5 else "no"
        )
        usage = {"prompt_tokens": read, "completion_tokens": written}
        return 200, {}, {**answer, "usage": usage}


MONEY = {"price_in": READ, "price_out": WRITTEN}


@pytest.mark.parametrize("concurrency", [1, 7])
def test_the_budget_is_never_passed_not_over_several_runs_either(
    tmp_path: Path, concurrency: int
) -> None:
    stage, till = Stage(tmp_path, [conversation(n) for n in range(40)]), Till()
    with serving(till) as server:
        for budget in (5.0, 5.0, 9.0):
            with pytest.raises(UserError, match="has no room for another request") as caught:
                stage(server, concurrency, budget=budget, **MONEY)
            assert till.total <= budget
            assert till.total > budget - 1.0
            assert len(str(caught.value).splitlines()) == 1
            told = re.search(r"\$([\d.]+) spent", str(caught.value))
            assert told
            assert float(told[1]) == pytest.approx(till.total, abs=1e-4)
            assert "of 40 conversations are done" in str(caught.value)
            assert "for all" in str(caught.value)
        before = len(server.requests)
        with pytest.raises(UserError):
            stage(server, concurrency, budget=9.0, **MONEY)
        assert len(server.requests) == before
        summary = stage(server, concurrency, budget=99.0, **MONEY)
    assert summary["made"] == 40
    assert summary["spent"] == pytest.approx(till.total)


def test_a_request_that_was_under_way_when_the_run_was_killed_is_on_the_bill(
    tmp_path: Path,
) -> None:
    stage = Stage(tmp_path, [conversation(1), conversation(2)])
    with serving(good) as server:
        stage(server, **MONEY)
        lines = [json.loads(line) for line in stage.cache.read_text().splitlines()]
        begun = [one for one in lines if "begun" in one]
        whole = sum(one.get("usd", 0.0) for one in lines)
        assert whole == pytest.approx(2 * priced(5, 7))
        answers = [one for one in lines if "answer" in one]
        stage.cache.write_text("".join(map(to_line, [*begun, answers[0]])))
        lost = next(one for one in begun if one["key"] != answers[0]["key"])
        server.requests.clear()
        summary = stage(server, **MONEY)
    assert len(server.requests) == 1
    assert summary["spent"] == pytest.approx(whole + lost["begun"])


def test_what_a_server_does_not_count_is_taken_at_its_most(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [conversation(1)])
    with serving(lambda body, n: (200, {}, {**completion(GOOD), "usage": None})) as server:
        summary = stage(server, **MONEY)
    prompt = len(server.requests[0]["messages"][0]["content"].encode())
    assert summary["spent"] > priced(prompt, server.requests[0]["max_tokens"]) - 1e-6


@pytest.mark.parametrize("more", [{"budget": 5.0}, {"budget": 5.0, "price_in": 1.0}])
def test_a_budget_without_a_price_is_one_clear_line(tmp_path: Path, more: Any) -> None:
    stage = Stage(tmp_path, [conversation(1)])
    with serving(good) as server, pytest.raises(UserError, match=r"--price 0\.15/0\.60"):
        stage(server, **more)
    assert server.requests == []


def test_the_command_says_what_was_made_and_what_it_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, [conversation(n, "given" if n == 0 else None) for n in range(4)])
    arguments = [
        "intents",
        "make",
        str(stage.source),
        "--out",
        str(stage.out),
        "--on-error",
        "reject",
    ]
    with serving(lambda body, n: "no" if subject(body) == 3 else good(body, n)) as server:
        more = ["--model", f"openai:tiny@{server.url}", "--price", "1000/0", "--budget", "10000"]
        done = CliRunner().invoke(main, [*arguments, *more, "--api-key-env", KEY_ENV])
    assert done.exit_code == 0, done.output
    assert done.stdout == (
        f"{stage.out}: kept 1, made 2, rejected 1 (the reply does not begin with "
        f"{INTENT_OPENING!r}); $0.0250 in all\n"
    )
    assert "1 failed" in done.stderr
    assert "$0.0250 spent" in done.stderr


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


# ---- servers that fail -----------------------------------------------------------------------


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
    assert len(server.requests) == 2 + 2 * (asking.PATIENCE + 1)  # the client itself tries twice


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
    assert len(server.requests) == asking.HOPELESS_COUNT * ATTEMPTS


def test_a_model_that_never_gives_an_intent_is_given_up_too(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [conversation(n) for n in range(100)])
    with serving(lambda body, n: "no") as server, pytest.raises(UserError, match="none answered"):
        stage(server, concurrency=1)
    assert len(server.requests) == asking.HOPELESS_COUNT * ATTEMPTS


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
