"""The intents stage fails, is killed, and goes on."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import warm
from test_openai_backend import KEY_ENV, Server, serving

from intents_stage import (
    GOOD,
    Stage,
    conversation,
    good,
    subject,
    subjects,
)
from userlm_synth.asking import ATTEMPTS
from userlm_synth.errors import UserError
from userlm_synth.intents import make_intents, prompts
from userlm_synth.pipeline import Run, validate_run
from userlm_synth.recipe import Intents, build_recipe
from userlm_synth.records import (
    INTENT_OPENING,
    write_json,
    write_records,
)

pytestmark = pytest.mark.usefixtures("quick_client")


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
            before = len(server.requests)
            process = warm.start(code, *arguments)
            while process.returncode is None and len(server.requests) == before:
                time.sleep(0.01)
            time.sleep(moments.uniform(0.05, 0.3))
            if process.returncode is None and kills < 2:
                process.kill()
                kills += 1
            assert process.wait().returncode in (0, -signal.SIGKILL), process.stderr
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
