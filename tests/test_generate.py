"""Facts about a run of dialogues: what it asks, how it stops, how it goes on."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from talkers import Talker
from userlm_synth.errors import UserError
from userlm_synth.recipe import Assistant, Generate, Guardrails, Slice
from userlm_synth.records import Record, read_records
from userlm_synth.simulate import Job, OtherSettings, generate

Made = dict[str, tuple[str, list[str]]]


class Stage:
    """`generate` with toys on both sides, in a folder of its own."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, count: int = 12) -> None:
        self.folder, self.patch = folder, patch
        self.write_intents(count)

    def write_intents(self, count: int) -> None:
        lines = [json.dumps({"id": f"i{n}", "intent": f"buy {n} lamps"}) for n in range(count)]
        (self.folder / "intents.jsonl").write_text("\n".join(lines) + "\n")

    def __call__(
        self,
        user: Talker | dict[str, Talker] | None = None,
        assistant: Talker | None = None,
        out: str = "out",
        side: Assistant | None = None,
        estimate: int | None = None,
        ask: Any = lambda _: False,
        **more: Any,
    ) -> Record:
        sides = {"assistant": assistant or Talker("assistant")}
        users = user if isinstance(user, dict) else {"user": user or Talker("user", leaves=0.3)}

        def open_toy(spec: str, *, speaker: str, **_: Any) -> Talker:
            return sides[spec] if speaker == "assistant" else users[spec]

        self.patch.setattr("userlm_synth.simulate.sides.open_backend", open_toy)
        job = Job(
            Generate(**{"max_turns": 4, "concurrency": 5, **more}), side or Assistant(),
            user=next(iter(users)), assistant="assistant", intents=self.folder / "intents.jsonl",
            out=self.folder / out, seed=3, recipe_hash="h",
        )  # fmt: skip
        return generate(job, estimate, ask)

    def made(self, out: str = "out") -> Made:
        """Each dialogue by its id: why it stopped, what was said."""
        folder = self.folder / out
        found = [one for p in folder.glob("part-*.jsonl") for one in read_records(p, "dialogue")]
        assert len({one["id"] for one in found}) == len(found)
        return {
            one["id"]: (one["stop_reason"], [m["content"] for m in one["messages"]])
            for one in found
        }

    def records(self, out: str = "out") -> list[Record]:
        paths = sorted((self.folder / out).glob("part-*.jsonl"))
        return [one for path in paths for one in read_records(path, "dialogue")]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(tmp_path, monkeypatch)


def both(*talkers: Talker) -> list[tuple[str, int]]:
    """What was asked, of both sides together."""
    return [asked for talker in talkers for asked in talker.asked]


# ---- stopping and going on -------------------------------------------------------------------


def failing(at: int) -> Any:
    def before(number: int) -> None:
        if number >= at:
            raise UserError("the key is wrong")

    return before


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 40), st.integers(1, 9))
def test_a_run_stopped_anywhere_ends_as_one_that_was_not(
    tmp_path_factory: pytest.TempPathFactory, at: int, concurrency: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stage = Stage(tmp_path_factory.mktemp("stage"), patch)
        stage(out="whole", concurrency=1)
        first = Talker("user", leaves=0.3), Talker("assistant", before=failing(at))
        with suppress(UserError):  # after the last request there is none to fail
            stage(*first, concurrency=concurrency)
        second = Talker("user", leaves=0.3), Talker("assistant")
        stage(*second, concurrency=concurrency)
        assert stage.made() == stage.made("whole")
        # a user turn that was said, and reached the store, is not asked for again
        assert not set(second[0].asked) & said(first[0], first[1])


def said(user: Talker, assistant: Talker) -> set[tuple[str, int]]:
    """User turns that an assistant's answer followed: they are in the store."""
    answered = set(assistant.asked)
    return {(name, turns) for name, turns in user.asked if (name, turns + 1) in answered}


def test_an_error_that_stops_the_run_is_one_line_that_says_how_far_it_is(stage: Stage) -> None:
    with pytest.raises(
        UserError, match=r"^the key is wrong \((\d) of 12 dialogues are done"
    ) as one:
        stage(assistant=Talker("assistant", before=failing(15)))
    assert len(str(one.value).splitlines()) == 1
    assert f"({len(stage.made())} of 12" in str(one.value), "their files are written"


def test_ctrl_c_keeps_the_turns_under_way_and_the_next_run_asks_for_none_again(
    stage: Stage,
) -> None:
    stage(Talker("user"), out="whole")
    pressed: list[int] = []

    def press(number: int) -> None:
        if number >= 9 and not pressed:
            pressed.append(number)
            os.kill(os.getpid(), signal.SIGINT)

    first = Talker("user"), Talker("assistant", before=press, delay=0.005)
    with pytest.raises(KeyboardInterrupt):
        stage(*first)
    assert len(first[1].asked) > pressed[0], "what was under way is answered"
    second = Talker("user"), Talker("assistant")
    stage(*second)
    assert stage.made() == stage.made("whole")
    asked = Counter(both(*first, *second))
    assert set(asked.values()) == {1}


KILLED = """
import sys
from pathlib import Path
from test_generate import Stage
from talkers import Talker
import pytest
folder = Path(sys.argv[1])
with pytest.MonkeyPatch.context() as patch:
    stage = Stage(folder, patch)
    log = folder / "asked.txt"
    stage(Talker("user", leaves=0.2, delay=0.01, log=log), Talker("assistant", delay=0.01, log=log),
          concurrency=6, num=40)
"""


@pytest.mark.slow
def test_kill_9_loses_no_stored_turn_and_doubles_no_dialogue(stage: Stage) -> None:
    stage(Talker("user", leaves=0.2), out="whole", num=40)
    log, stored = stage.folder / "asked.txt", set[tuple[str, int]]()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", KILLED, str(stage.folder)]
    kills = 0
    while True:
        before = len(log.read_text().splitlines()) if log.exists() else 0
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
            while process.poll() is None:
                lines = len(log.read_text().splitlines()) if log.exists() else 0
                if kills < 3 and lines >= before + 40:
                    process.send_signal(signal.SIGKILL)
                    kills += 1
                    break
                time.sleep(0.005)
            process.wait()
        now = log.read_text().splitlines()[before:]
        asked = {(one.split()[0], int(one.split()[1])) for one in now}
        assert not asked & stored, "what the store had is not asked for again"
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, process.stderr
        stored |= in_store(stage.folder / "out" / "store.sqlite")
    assert kills == 3
    assert stage.made() == stage.made("whole")


def in_store(path: Path) -> set[tuple[str, int]]:
    """The utterances that a store holds: dialogue, and number of turns before it."""
    rows = sqlite3.connect(path)
    found = {(name, number) for name, number in rows.execute("SELECT id, number FROM turns")}
    for name, text in rows.execute("SELECT id, record FROM dialogues"):
        found |= {(name, number) for number in range(len(json.loads(text)["messages"]))}
    rows.close()
    return found


def test_more_dialogues_or_more_intents_add_to_those_that_are_there(stage: Stage) -> None:
    stage(num=5)
    few = stage.made()
    stage(num=12)
    assert stage.made().items() >= few.items()
    assert len(stage.made()) == 12
    stage.write_intents(15)
    again = Talker("user", leaves=0.3)
    stage(again, num=12)
    assert again.asked == []
    stage()  # one an intent: three more
    assert len(stage.made()) == 15
    assert {one["intent_id"] for one in stage.records()} == {f"i{n}" for n in range(15)}


def test_what_differs_from_a_folder_is_named(stage: Stage) -> None:
    stage(num=1)
    with pytest.raises(OtherSettings, match=r"\(slices.main.temperature was 1.0, is 0.5\)"):
        stage(num=1, temperature=0.5)
    with pytest.raises(OtherSettings, match=r'slices.main.model was "user", is "other"'):
        stage({"other": Talker("other")}, num=1)
    stage(num=2, concurrency=1, adapt=False, budget=5.0)


def test_a_folder_of_another_version_is_refused(stage: Stage) -> None:
    stage(num=1)
    rows = sqlite3.connect(stage.folder / "out" / "store.sqlite")
    with rows:
        rows.execute("UPDATE settings SET format = 99")
    rows.close()
    with pytest.raises(OtherSettings, match="store was made by another version of userlm-synth"):
        stage(num=1)


def test_as_many_dialogues_live_at_once_as_the_concurrency_says(stage: Stage) -> None:
    user, assistant = Talker("user", delay=0.002), Talker("assistant", delay=0.002)
    stage(user, assistant, concurrency=4)
    assert 2 <= max(user.most_open, assistant.most_open) <= 4


# ---- how a dialogue stops --------------------------------------------------------------------


def test_a_dialogue_stops_when_its_tokens_are_used_up(stage: Stage) -> None:
    stage(Talker("user"), max_dialogue_tokens=20, max_turns=30)
    for record in stage.records():
        assert record["stop_reason"] == "max_tokens"
        written = [side["completion_tokens"] for side in record["usage"].values()]
        assert sum(written) >= 20
        last = [len(m["content"].split()) for m in record["messages"][-2:]]
        assert sum(written) - sum(last) < 20


def test_a_user_never_leaves_where_the_end_is_forbidden(stage: Stage) -> None:
    rules = Guardrails(forbid_end=True, attempts=30)
    stage(Talker("user", leaves=0.4), guardrails=rules)
    assert {record["stop_reason"] for record in stage.records()} == {"max_turns"}
    assert any(record["guardrails"].get("ended_early") for record in stage.records())


def test_dialogues_have_the_number_of_turns_that_is_asked_for(stage: Stage) -> None:
    rules = Guardrails(attempts=40)
    made = stage(
        Talker("user", leaves=0.4), guardrails=rules, max_turns=9, num=60,
        turns={"1": 0.5, "3": 0.5},
    )  # fmt: skip
    turns = Counter(len(record["messages"]) // 2 for record in stage.records())
    assert set(turns) == {1, 3}
    assert 18 <= turns[1] <= 42
    # the user is asked once more whether it leaves by itself
    assert set(made["stop_reasons"]) == {"user_ended", "max_turns"}
    for record in stage.records():
        left = record["end_probabilities"][-1] < 0.4
        assert (record["stop_reason"] == "user_ended") == left


def test_the_number_of_turns_is_compared_with_peoples(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    human = stage.folder / "human.jsonl"
    turn = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    chat = {"source": "s", "user_id": None, "language": None, "intent": "x", "persona": None,
            "messages": turn * 2, "metadata": {}}  # fmt: skip
    human.write_text("".join(json.dumps({**chat, "id": f"c{n}"}) + "\n" for n in range(4)))
    made = stage(Talker("user"), reference=str(human), max_turns=4)["user_turns"]
    assert (made["human"]["mean"], made["made"]["mean"]) == (2.0, 4.0)
    assert made["total_variation"] == 1.0
    assert "100.0% of the dialogues would need another number of turns" in capsys.readouterr().err


def test_a_user_whose_server_fails_rejects_the_dialogue(stage: Stage) -> None:
    from userlm_synth.backends import Request, Result

    class Broken(Talker):
        async def generate(self, request: Request) -> Result:
            return Result("the server sent no choice", "error")

    made = stage(Broken("user"), num=2)
    assert made["rejected"] == {"user_failed": 2}
    rejected = read_records(stage.folder / "out" / "rejected.jsonl", "rejected")
    assert rejected[0]["reason"] == "user_failed: the server sent no choice"


# ---- who is at the table, and what it costs --------------------------------------------------


def test_each_row_says_which_slice_made_it(stage: Stage) -> None:
    slices = {"old": Slice(weight=3.0, user="b"), "young": Slice(temperature=0.5)}
    users = {"a": Talker("model-a"), "b": Talker("model-b")}
    stage(users, slices=slices, num=40)
    made = Counter((r["metadata"]["slice"], r["user_model"]) for r in stage.records())
    assert set(made) == {("old", "model-b"), ("young", "model-a")}
    assert made["old", "model-b"] > made["young", "model-a"] > 0


def prices(folder: Path) -> str:
    path = folder / "prices.yaml"
    path.write_text("user: {read: 0, written: 0}\nassistant: {read: 10, written: 1000}\n")
    return str(path)


def test_a_budget_stops_the_run_before_it_is_passed_and_a_larger_one_goes_on(
    stage: Stage,
) -> None:
    table = prices(stage.folder)
    side = Assistant(max_tokens=12, budget=0.2)
    first = Talker("user"), Talker("assistant")
    with pytest.raises(UserError, match=r"assistant.budget: \$0.2 has no room .* of 12 dialogues"):
        stage(*first, side=side, prices=table, concurrency=2)
    bill = json.loads((stage.folder / "out" / "bill.json").read_text())
    assert 0.15 < bill["spent"]["assistant"] <= 0.2
    assert len(stage.made()) >= 1, "the files of what is done are written"
    second = Talker("user"), Talker("assistant")
    stage(*second, side=Assistant(max_tokens=12, budget=9.0), prices=table)
    assert len(stage.made()) == 12
    assert max(Counter(both(*first, *second)).values()) == 1, "nothing is paid for twice"


def test_an_estimate_makes_some_and_asks_before_the_rest(stage: Stage) -> None:
    table, said = prices(stage.folder), []

    def answer(yes: bool) -> Any:
        return lambda text: said.append(text) or yes

    made = stage(Talker("user"), estimate=3, ask=answer(False), prices=table)
    assert made["accepted"] == len(stage.made()) == 3
    assert said[0].startswith("3 dialogues cost $0.")
    assert "; 9 more cost about $0." in said[0]
    stage(Talker("user"), estimate=3, ask=answer(True), prices=table)
    assert len(stage.made()) == 12
