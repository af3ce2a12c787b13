"""Facts about `benchmark`: when a dialogue ends, what is counted, how a run goes on or stops."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from http_toys import Toy, chat, listing, toy

from userlm_synth.benchmark import sandbox
from userlm_synth.records import Record, file_problems, read_records

Cli = Callable[..., Any]
WORDS = ["lamp", "chair", "table", "door", "north", "river", "stone", "bread", "coat", "glass"]

SHARDS = [
    ("1", "how many lamps are there in the big hall?", True),
    ("2", "there are 4 tables", True),
    ("3", "each of the tables has 3 of them", True),
    ("4", "the room is green", False),
]


def math_task(name: str, answer: str = "12", marks: bool = True) -> Record:
    shards = [
        {"id": number, "text": text, **({"required": needed} if marks else {})}
        for number, text, needed in SHARDS
    ]
    return {
        "id": name,
        "domain": "math",
        "instruction": f"In room {name} there are 4 tables with 3 lamps each. How many lamps?",
        "shards": shards,
        "check": {"answer": answer, "solution": "4 x 3 = 12. #### 12"},
    }


def code_task(solution: str = "def double(x):\n    return 2 * x\n") -> Record:
    return {
        "id": "double",
        "domain": "code",
        "instruction": "Write double(x), which returns twice a number.",
        "shards": [
            {"id": "1", "text": "write a function double(x)", "required": True},
            {"id": "2", "text": "it returns twice the number", "required": True},
        ],
        "check": {
            "entry_point": "double",
            "cases": [{"args": [n], "expected": 2 * n} for n in (0, 1, 7)],
            "solution": solution,
        },
    }


class Stage:
    """`benchmark` with scripts on both sides, in a folder of its own."""

    def __init__(self, folder: Path, cli: Cli) -> None:
        self.folder, self.cli = folder, cli
        self.tasks(math_task("a"), math_task("b"))
        self.user("how many lamps has the big hall", "each table has three", "there are 4 tables")
        self.assistant("Tell me more.", "There are 3 lamps. #### 3", "Then it is 12 lamps.")

    def tasks(self, *tasks: Record) -> None:
        text = "".join(json.dumps(one) + "\n" for one in tasks)
        (self.folder / "tasks.jsonl").write_text(text)

    def user(self, *turns: str) -> None:
        (self.folder / "user.json").write_text(json.dumps(turns))

    def assistant(self, *turns: str) -> None:
        (self.folder / "assistant.json").write_text(json.dumps(turns))

    def __call__(self, *more: object, out: str = "out", runs: int = 2) -> Any:
        return self.cli(
            "benchmark", "--user", f"scripted:{self.folder / 'user.json'}",
            "--assistant", f"scripted:{self.folder / 'assistant.json'}",
            "--tasks", self.folder / "tasks.jsonl", "--runs", runs, "--out", self.folder / out,
            *more,
        )  # fmt: skip

    def found(self, out: str = "out") -> Record:
        found: Record = json.loads((self.folder / out / "benchmark.json").read_text())
        return found

    def dialogues(self, out: str = "out") -> list[Record]:
        return read_records(self.folder / out / "dialogues" / "part-00000.jsonl", "dialogue")

    def figure(self, name: str, out: str = "out") -> Any:
        one = self.found(out)["results"][0]["figures"][name]
        return one and one["value"]


@pytest.fixture
def stage(tmp_path: Path, cli: Cli) -> Stage:
    return Stage(tmp_path, cli)


# ---- when a dialogue ends --------------------------------------------------------------------


def test_a_dialogue_ends_with_the_first_reply_that_passes(stage: Stage) -> None:
    done = stage()
    assert done.code == 0, done.err
    for one in stage.dialogues():
        assert one["stop_reason"] == "solved"
        assert len(one["messages"]) == 6
        assert one["metadata"]["checks"] == [
            {"turn": 1, "passed": False, "attempted": False, "reason": "no solution in the reply"},
            {"turn": 2, "passed": False, "attempted": True, "reason": "expected 12, got 3"},
            {"turn": 3, "passed": True, "attempted": True, "reason": ""},
        ]
    assert stage.figure("assistant_score") == 100
    assert file_problems(stage.folder / "out" / "benchmark.json", "benchmark") == (1, [])


def test_a_solution_in_the_last_reply_before_the_cap_counts(stage: Stage) -> None:
    assert stage("generate.max_turns=3").code == 0
    assert {one["stop_reason"] for one in stage.dialogues()} == {"solved"}


def test_a_task_that_nobody_solves_ends_at_the_cap(stage: Stage) -> None:
    assert stage("generate.max_turns=2").code == 0
    assert {one["stop_reason"] for one in stage.dialogues()} == {"max_turns"}
    assert {len(one["messages"]) for one in stage.dialogues()} == {4}
    assert stage.figure("assistant_score") == 0
    assert stage.figure("turn_max") == 2


def test_the_user_may_not_leave_unless_the_recipe_says_so_which_is_said(stage: Stage) -> None:
    stage.user("how many lamps are there", "<|endconversation|>")
    refused = stage()
    assert "rejected and in no figure: 4 guardrails_exhausted" in refused.out
    assert stage.found()["dialogues"]["rejected"] == {"guardrails_exhausted": 4}
    assert stage.figure("assistant_score") is None
    left = stage("generate.guardrails.forbid_end=false", out="free")
    assert "forbid_end is off: the user may leave" in left.err
    assert {one["stop_reason"] for one in stage.dialogues("free")} == {"user_ended"}


def test_the_intent_is_the_whole_task_and_each_run_has_a_seed_of_its_own(stage: Stage) -> None:
    stage(runs=3)
    made = stage.dialogues()
    assert len({one["seed"] for one in made}) == len(made) == 6
    assert {one["intent"] for one in made} == {
        "You are a user chatting with an assistant language model to complete the following: "
        f"In room {name} there are 4 tables with 3 lamps each. How many lamps?"
        for name in "ab"
    }


# ---- figures without a judge -----------------------------------------------------------------


def test_without_a_judge_shards_are_told_by_words_and_what_cannot_be_is_said(stage: Stage) -> None:
    done = stage()
    assert stage.figure("intent_coverage") == 75  # the room's colour is never told
    assert stage.figure("skip_non_required") == 100
    assert stage.figure("repeat_required") == 0
    row = stage.found()["results"][0]
    assert row["figures"]["add_demands"] is None
    assert row["not_measured"] == {"add_demands": "is seen by a judge alone; name one with --judge"}
    assert "% Add demands           n/a" in done.out
    assert "not there: add demands: is seen by a judge alone" in done.out
    line = json.loads((stage.folder / "out" / "revealed.jsonl").read_text().splitlines()[0])
    assert line["by_words"] == [[1], [3], [2]]


def test_skipping_is_not_there_for_tasks_whose_shards_are_required_or_unmarked(
    stage: Stage,
) -> None:
    stage.tasks(math_task("a", marks=False))
    stage()
    row = stage.found()["results"][0]
    assert row["not_measured"]["skip_non_required"] == (
        "these tasks do not say which shards are required"
    )
    needed = math_task("a")
    for shard in needed["shards"]:
        shard["required"] = True
    stage.tasks(needed, math_task("b"))
    stage(out="some")
    one = stage.found("some")["results"][0]["figures"]["skip_non_required"]
    assert (one["n"], one["tasks"]) == (2, 1), "averaged over the tasks that have such shards"


def test_one_run_of_each_task_has_no_variance(stage: Stage) -> None:
    assert stage(runs=1).code == 0
    why = stage.found()["results"][0]["not_measured"]
    assert why["turn_variance"] == "takes two dialogues or more of a task"
    assert stage.figure("turn_min") is None


def test_a_single_task_has_no_interval(stage: Stage) -> None:
    stage.tasks(math_task("a"))
    assert stage().code == 0
    assert stage.found()["results"][0]["figures"]["assistant_score"] == {
        "value": 100.0, "interval": None, "n": 2, "tasks": 1,
    }  # fmt: skip


# ---- going on --------------------------------------------------------------------------------


def test_fewer_runs_or_tasks_count_those_alone_and_more_are_added(stage: Stage) -> None:
    stage(runs=2)
    first = {one["id"] for one in stage.dialogues()}
    stage("benchmark.limit=1", runs=1)
    assert stage.found()["dialogues"]["accepted"] == 1
    assert {one["id"] for one in stage.dialogues()} == first
    stage(runs=3)
    assert stage.found()["dialogues"]["accepted"] == 6
    assert {one["id"] for one in stage.dialogues()} > first


def test_a_task_that_changed_under_its_name_is_refused(stage: Stage) -> None:
    stage()
    stage.tasks({**math_task("a"), "instruction": "How many lamps?"}, math_task("b"))
    assert "task a was another one when its dialogues were held" in stage().error


def test_other_limits_for_solutions_are_other_dialogues(stage: Stage) -> None:
    stage()
    assert "ends_when.check_seconds was 10" in stage("benchmark.check_seconds=3").error


class Talks:
    """A server for both sides; a user says what its seed decides. `asked`: sides and seeds."""

    def __init__(self, solves_at: int = 3) -> None:
        self.asked: list[tuple[str, int]] = []
        self.solves_at = solves_at
        self.victim: subprocess.Popen[bytes] | None = None
        self.kills_at = -1
        self.judge: Callable[[str], str] = lambda text: "no"

    def __call__(self, path: str, body: Record, number: int) -> Any:
        side = body["model"]
        if side == "judge":
            self.asked.append((side, 0))
            return chat(self.judge(body["messages"][-1]["content"]))
        self.asked.append((side, body["seed"]))
        if self.victim and len(self.asked) == self.kills_at:
            time.sleep(0.3)  # what came before gets to the disk
            os.kill(self.victim.pid, signal.SIGKILL)
        draw = random.Random(body["seed"])
        if side == "user":
            return chat(" ".join(draw.choice(WORDS) for _ in range(draw.randint(4, 9))))
        turns = sum(one["role"] == "user" for one in body["messages"])
        return chat("#### 12" if turns >= self.solves_at else f"It is {draw.randint(20, 99)}.")


@contextmanager
def served(talks: Talks) -> Iterator[Toy]:
    with toy(talks, listing("user", "assistant", "judge")) as server:
        yield server


def arguments(server: Toy, tasks: Path, out: Path, *more: object) -> list[str]:
    sides = [f"--{side}=openai:{side}@{server.url}" for side in ("user", "assistant")]
    return [
        "benchmark", *sides, "--tasks", str(tasks), "--runs", "4", "--out", str(out),
        "generate.guardrails.first_token_filter=[]", "generate.server.api=chat",
        "generate.concurrency=3", *map(str, more),
    ]  # fmt: skip


def figures(out: Path) -> Any:
    found = json.loads((out / "benchmark.json").read_text())
    return found["results"], found["by_task"]


def in_store(path: Path) -> int:
    """How many turns are on the disk."""
    rows = sqlite3.connect(path)
    (turns,) = rows.execute("SELECT count(*) FROM turns").fetchone()
    records = rows.execute("SELECT record FROM dialogues").fetchall()
    rows.close()
    return int(turns) + sum(len(json.loads(text)["messages"]) for (text,) in records)


def verdicts(dialogues: list[Record]) -> dict[str, Any]:
    assert all(len(one["metadata"]["checks"]) == 3 for one in dialogues)
    return {one["id"]: one["metadata"] for one in dialogues}


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")


def test_a_killed_run_goes_on_and_asks_for_no_turn_again_that_it_has(
    stage: Stage, tmp_path: Path, cli: Cli
) -> None:
    talks = Talks()
    with served(talks) as server:
        tasks = tmp_path / "tasks.jsonl"
        assert cli(*arguments(server, tasks, tmp_path / "whole")).code == 0
        whole = set(talks.asked)
        assert len(whole) == len(talks.asked) == 2 * 4 * 6
        talks.asked.clear()
        talks.kills_at = 30
        command = [sys.executable, "-m", "userlm_synth", *arguments(server, tasks, tmp_path / "o")]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as talks.victim:
            assert talks.victim.wait(60) == -signal.SIGKILL
        talks.victim, former = None, set(talks.asked)
        kept = in_store(tmp_path / "o" / "dialogues" / "store.sqlite")
        assert 0 < kept <= len(former) < len(whole)
        talks.asked.clear()
        assert cli(*arguments(server, tasks, tmp_path / "o")).code == 0
        assert len(talks.asked) == len(whole) - kept
        assert former | set(talks.asked) == whole
        assert figures(tmp_path / "o") == figures(tmp_path / "whole")
        assert verdicts(stage.dialogues("o")) == verdicts(stage.dialogues("whole"))
        talks.asked.clear()
        assert cli(*arguments(server, tasks, tmp_path / "o")).code == 0
        assert talks.asked == []


# ---- a judge ---------------------------------------------------------------------------------


def said_by_judge(*added: str) -> Callable[[str], str]:
    """Every turn reveals the second shard; the first one adds something."""

    def judge(prompt: str) -> str:
        turns = prompt.partition("The person's messages:\n")[2].strip().splitlines()
        entries: list[Record] = [
            {"turn": number, "shards": [2], "added": list(added) if number == 1 else []}
            for number in range(1, len(turns) + 1)
        ]
        return f"Sure.\n```json\n{json.dumps({'turns': entries})}\n```"

    return judge


def test_a_judge_sees_shards_and_additions_and_is_asked_once(
    stage: Stage, tmp_path: Path, cli: Cli
) -> None:
    talks = Talks()
    talks.judge = said_by_judge("a red lamp")
    with served(talks) as server:
        judge = ("--judge", f"openai:judge@{server.url}")
        call = arguments(server, tmp_path / "tasks.jsonl", tmp_path / "o", *judge)
        first = cli(*call)
        assert first.code == 0, first.err
        assert talks.asked.count(("judge", 0)) == 8
        found = json.loads((tmp_path / "o" / "benchmark.json").read_text())
        values = {
            name: one and one["value"] for name, one in found["results"][0]["figures"].items()
        }
        assert values["intent_coverage"] == 25
        assert values["repeat_required"] == 100
        assert values["skip_non_required"] == 100
        assert values["add_demands"] == 100
        assert found["shards_by"] == "judge"
        assert found["judge"]["judged"] == 8
        agreed = found["judge"]["agreement_with_words"]
        assert agreed["n"] == 8 * 3 * 4, "dialogues, turns, shards"
        assert found["results"][0]["by_words"]["intent_coverage"]["value"] < 25
        assert found["costs"]["judge"] == {
            "usd": 0.0, "tokens": {"prompt": 8 * 50, "completion": 8 * 7},
        }  # fmt: skip
        assert "judged by judge" in first.out
        assert "Cohen's kappa" in first.out
        line = json.loads((tmp_path / "o" / "revealed.jsonl").read_text().splitlines()[0])
        assert line["by_judge"] == [[2], [2], [2]]
        assert line["added"] == [["a red lamp"], [], []]
        talks.asked.clear()
        again = cli(*call)
        assert talks.asked == []
        assert again.out == first.out


def test_replies_off_the_form_leave_a_dialogue_out_and_are_counted(
    stage: Stage, tmp_path: Path, cli: Cli
) -> None:
    talks, good = Talks(), said_by_judge()
    left: list[str] = []

    def judge(prompt: str) -> str:
        left[:] = left or [prompt]
        return "turn 1: shard 2" if prompt == left[0] else good(prompt)

    talks.judge = judge
    with served(talks) as server:
        judging = ("--judge", f"openai:judge@{server.url}")
        done = cli(*arguments(server, tmp_path / "tasks.jsonl", tmp_path / "o", *judging))
        assert done.code == 0, done.err
        assert talks.asked.count(("judge", 0)) == 7 + 3, "three attempts"
        found = json.loads((tmp_path / "o" / "benchmark.json").read_text())
        assert found["judge"]["unjudged"] == {"the reply is no JSON object": 1}
        shown = found["results"][0]["figures"]
        assert (shown["intent_coverage"]["n"], shown["assistant_score"]["n"]) == (7, 8)
        assert "left out without a usable answer: 1 (the reply is no JSON object)" in done.out


def test_a_judge_that_is_not_there_stops_the_run_and_the_dialogues_stay(
    stage: Stage, tmp_path: Path, cli: Cli, quick_client: None
) -> None:
    done = stage("--judge", "openai:judge@http://127.0.0.1:9/v1")
    assert "0 of 4 judgements are done, 4 are left" in done.error
    assert len(stage.dialogues()) == 4


def test_a_budget_for_a_judge_without_a_price_is_refused(stage: Stage) -> None:
    done = stage("--judge", "openai:gpt-x@https://example.org/v1", "benchmark.judge.budget=1")
    assert done.error == (
        "error: benchmark.judge.budget: openai:gpt-x@https://example.org/v1 has no price; give "
        "benchmark.judge.price_in and price_out (USD a million tokens)"
    )
    assert not (stage.folder / "out").exists()


# ---- code ------------------------------------------------------------------------------------


@pytest.mark.skipif(sandbox.find_sandbox() is None, reason="bubblewrap is not here")
def test_code_is_run_and_both_domains_have_a_table_of_their_own(stage: Stage) -> None:
    stage.tasks(math_task("a"), code_task())
    code = "```python\ndef double(x):\n    return x + x\n```"
    stage.assistant(
        "What kind of number?", "It is 12, and this is wrong:\n```python\ndef double(x): ..."
    )
    stage("generate.max_turns=2", out="no")
    reasons = {
        one["intent_id"]: one["metadata"]["checks"][-1]["reason"] for one in stage.dialogues("no")
    }
    assert reasons["a"] == ""
    assert reasons["double"], "why the wrong program did not pass"
    stage.assistant("What kind?", f"12.\n{code}\n12")
    done = stage("generate.max_turns=3")
    assert done.code == 0, done.err
    assert {one["stop_reason"] for one in stage.dialogues()} == {"solved"}
    rows = {row["domain"]: row["dialogues"] for row in stage.found()["results"]}
    assert rows == {"all": 4, "math": 2, "code": 2}
    assert "Table 5" in done.out


def test_code_tasks_without_bubblewrap_are_refused_before_anything_is_asked(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.tasks(code_task())
    monkeypatch.setenv("PATH", str(stage.folder))
    sandbox._probe.cache_clear()
    try:
        assert "need bubblewrap" in stage().error
        assert not (stage.folder / "out").exists()
        without = stage("benchmark.sandbox=none", "generate.max_turns=1", runs=1)
        assert "programs that the assistant writes run as you" in without.err
        assert without.code == 0, without.err
    finally:
        sandbox._probe.cache_clear()


@pytest.mark.skipif(sandbox.find_sandbox() is None, reason="bubblewrap is not here")
def test_a_reference_solution_that_fails_its_own_tests_is_named(stage: Stage) -> None:
    stage.tasks(math_task("a", answer="13"), code_task("def double(x):\n    return x\n"))
    done = stage()
    assert [one.partition(": ")[2] for one in done.errors] == [
        "a: the reference solution fails its own tests: expected 13, got 12",
        "double: the reference solution fails its own tests: case 2: expected 2, got 1",
    ]
    assert not (stage.folder / "out" / "dialogues").exists()


# ---- what is refused -------------------------------------------------------------------------


def test_what_is_missing_is_named(stage: Stage, cli: Cli, tmp_path: Path) -> None:
    assert cli("benchmark", "--out", tmp_path / "o").error == (
        "error: benchmark: needs --user, --assistant and --tasks (or a recipe)"
    )
    assert cli("benchmark", "benchmark").error == "error: benchmark: name a folder with --out"
    file = tmp_path / "missing.jsonl"
    gone = cli("benchmark", "--user", "a", "--assistant", "b", "--tasks", file, "--out", "o")
    assert f"benchmark.tasks: {file}: no such file" in gone.error
    assert "no code task" in stage("benchmark.domain=code").error


def test_a_file_that_holds_no_tasks_is_refused(stage: Stage) -> None:
    (stage.folder / "tasks.jsonl").write_text('{"id": "i", "intent": "buy a lamp"}\n')
    assert "tasks.jsonl: holds no tasks" in stage().error


def test_fields_that_would_make_other_dialogues_are_refused(stage: Stage) -> None:
    done = stage("generate.slices={a: {weight: 1}}", "generate.num=3")
    assert [line.partition(":")[2].split(":")[0].strip() for line in done.errors] == [
        "generate.slices", "generate.num",
    ]  # fmt: skip


# ---- tables ----------------------------------------------------------------------------------


def test_tables_of_two_users_stand_side_by_side_with_what_is_not_the_same(
    stage: Stage, cli: Cli, tmp_path: Path
) -> None:
    stage()
    stage("generate.max_turns=2", out="other", runs=3)
    done = cli(
        "benchmark", "--table", tmp_path / "out", tmp_path / "other", "--out", tmp_path / "t"
    )
    assert done.code == 0, done.err
    assert "user.json (1)" in done.out
    assert "user.json (2)" in done.out
    assert "not the same in these columns: runs (2 / 3)" in done.out
    rows = [line.split() for line in done.out.splitlines() if line.startswith("  Assistant score")]
    assert [cell for cell in rows[0] if cell in ("100.0", "0.0")] == ["100.0", "0.0"]
    markdown = (tmp_path / "t" / "table.md").read_text()
    assert "| Assistant score (%) | 100.0 [100.0, 100.0] | 0.0 [0.0, 0.0] |" in markdown
    tex = (tmp_path / "t" / "table.tex").read_text()
    assert "Assistant score (\\%) & 100.0 & 0.0 \\\\" in tex
    assert tex.count("\\begin{tabular}") == tex.count("\\end{tabular}}") == 1


def test_a_table_needs_folders_that_benchmark_wrote(cli: Cli, tmp_path: Path) -> None:
    assert "name the folders" in cli("benchmark", "--table").error
    assert (
        f"{tmp_path / 'benchmark.json'}: no such file"
        in cli("benchmark", "--table", tmp_path).error
    )
    (tmp_path / "benchmark.json").write_text('{"version": 1}')
    assert "missing" in cli("benchmark", "--table", tmp_path).error
    assert "leave out --user" in cli("benchmark", "--table", tmp_path, "--user", "x").error
