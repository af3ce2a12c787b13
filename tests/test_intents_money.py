"""The intents stage spends no more than it may, and says what it spent."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from test_openai_backend import KEY_ENV, completion, serving

from intents_stage import (
    GOOD,
    Stage,
    conversation,
    good,
    subject,
)
from userlm_synth.cli import main
from userlm_synth.errors import UserError
from userlm_synth.records import (
    INTENT_OPENING,
    to_line,
)

pytestmark = pytest.mark.usefixtures("quick_client")


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
