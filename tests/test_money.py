"""Facts about money: prices, budgets that hold, a bill that survives a kill, forecasts."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from userlm_synth.backends.interface import Request, Result, Signals
from userlm_synth.backends.metered import MESSAGE_TOKENS, Metered
from userlm_synth.errors import UserError
from userlm_synth.money import (
    Bill,
    BudgetUsedUp,
    Forecast,
    Price,
    Prices,
    check_budgets,
    estimate,
    load_prices,
    usd,
)
from userlm_synth.money.bill import WIDTH
from userlm_synth.money.forecast import student

REMOTE = "openai:big@https://api.example.com/v1"


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nobody's own prices are in these tests."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "config" / "userlm_synth"
    folder.mkdir(parents=True)
    return folder


# ---- prices ----------------------------------------------------------------------------------


def test_cached_tokens_cost_their_own_price_where_there_is_one() -> None:
    assert Price(2.0, 8.0).usd(1_000_000, 500_000, 400_000) == pytest.approx(6.0)
    assert Price(2.0, 8.0, 0.5).usd(1_000_000, 500_000, 400_000) == pytest.approx(5.4)
    assert Price(2.0, 8.0, 0.0).usd(100, 0, 999) == 0.0  # a server cannot pay us back


def test_a_whole_name_goes_before_a_pattern_and_a_long_pattern_before_a_short_one() -> None:
    one, two, three, four = (Price(float(n), float(n)) for n in range(1, 5))
    table = Prices({"*": one, "big-*": two, "big-*-mini": three, "big-2-mini": four})
    at = "@https://api.example.com/v1"
    assert table.of(f"openai:other{at}") == one
    assert table.of(f"openai:big-2{at}") == two
    assert table.of(f"openai:big-7-mini{at}") == three
    assert table.of(f"openai:big-2-mini{at}") == four
    assert table.of(f"prompted:openai:big-2-mini{at}") == four
    assert table.of("openai:big-2-mini") == four  # a backend's name
    assert Prices({"a.c[1]": one}).of("openai:abc1@https://h/v1") is None


@pytest.mark.parametrize(
    "spec",
    [
        "hf:org/model", "org/model@main", "./here", "vllm:org/model", "scripted:replies.json",
        "openai:mine@http://localhost:8000/v1", "openai:mine@http://127.0.0.1:1,http://[::1]:2/v1",
        "prompted:hf:org/model",
    ],
)  # fmt: skip
def test_a_model_that_runs_here_costs_nothing_unless_the_table_names_it(spec: str) -> None:
    assert Prices({}).of(spec) == Price(0.0, 0.0, 0.0)
    assert Prices({"*": Price(1.0, 2.0)}).of(spec) == Price(1.0, 2.0)


@pytest.mark.parametrize(
    "spec",
    [
        "openai:big@https://api.example.com/v1", "prompted:openai:big@https://api.example.com/v1",
        "openai:big@http://localhost:1/v1,https://api.example.com/v1", "openai:big",
        "openai:big@http://localhost.example.com/v1", "openai:big@http://[::1/v1",
    ],
)  # fmt: skip
def test_nobody_knows_the_price_of_a_distant_model_that_the_table_lacks(spec: str) -> None:
    assert Prices({"small": Price(1.0, 2.0)}).of(spec) is None


def test_the_shipped_prices_load_and_later_files_win_by_name(
    tmp_path: Path, own_folder: Path
) -> None:
    shipped = load_prices(None)
    assert shipped.of("openai:gpt-4o-mini@https://api.openai.com/v1") == Price(0.15, 0.60, 0.075)
    assert shipped.of("openai:gpt-4.1-mini-2025-04-14") == Price(0.40, 1.60, 0.10)
    assert shipped.of("openai:gpt-4o-mini-tts@https://api.openai.com/v1") is None
    (own_folder / "prices.yaml").write_text(
        "gpt-4o-mini: {read: 1, written: 2}\nmine: {read: 3e-1, written: 4}\n"
    )
    own = load_prices(None)
    assert own.of("openai:gpt-4o-mini") == Price(1.0, 2.0)
    assert own.of("openai:mine") == Price(0.3, 4.0)  # YAML takes 3e-1 for text
    given_file = tmp_path / "prices.yaml"
    given_file.write_text("mine: {read: 0, written: 0}")
    assert load_prices(given_file).of("openai:mine") == Price(0.0, 0.0)
    assert load_prices(given_file).of("openai:gpt-4o-mini") == Price(1.0, 2.0)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "m: {read: 1, written: 2, reed: 1}",
            "m.reed: no such key; there are: read, written, cached",
        ),
        ("m: {written: 2}", "m.read: is missing"),
        ("m: {read: -1, written: 2}", "m.read: -1 is not a number of 0 or more"),
        ("m: {read: .inf, written: 2}", "m.read: inf is not a number"),
        ("m: {read: yes, written: 2}", "m.read: True is not a number"),
        ("m: {read: cheap, written: 2}", "m.read: 'cheap' is not a number"),
        ("m: {read: 1, written: 2, cached: 3}", "m.cached: 3 is above m.read (1)"),
        ("m: 0.15/0.60", "m: '0.15/0.60' is not a mapping; write it as in"),
        ("- m", "is not a mapping; write a line for each model, as in"),
        ("a: {read: 1, written: 2}\nm: {read: 1", ":2: not YAML"),
        ("\x00", "not YAML"),
    ],
)
def test_a_bad_prices_file_is_one_line_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_prices(path)
    assert str(caught.value).startswith(str(path))
    assert told in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_prices_file_that_is_not_there_is_said_and_an_empty_one_adds_nothing(
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        load_prices(tmp_path / "none.yaml")
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert load_prices(tmp_path / "empty.yaml").table == load_prices(None).table


def test_a_budget_wants_the_price_of_every_model_that_it_pays_for(own_folder: Path) -> None:
    here, none = "hf:org/model", dict.fromkeys(("user", "assistant", "all"))
    prices = {here: Price(0.0, 0.0), REMOTE: None}
    models: Any = {"users": [here], "assistant": REMOTE}
    check_budgets(none, prices, **models)
    check_budgets({**none, "user": 1.0}, prices, **models)
    with pytest.raises(UserError) as caught:
        check_budgets({**none, "all": 1.0, "assistant": 2.0}, prices, **models)
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["assistant.budget", "generate.budget"]
    for line in lines:
        assert f"{REMOTE} has no price; add `big: " in line
        assert str(own_folder / "prices.yaml") in line
    check_budgets({**none, "all": 1.0}, {**prices, REMOTE: Price(1.0, 1.0)}, **models)


# ---- the bill --------------------------------------------------------------------------------

#: (side, the most it may cost, share of that which it does cost, loop turns that it takes)
REQUESTS = st.lists(
    st.tuples(
        st.sampled_from(["user", "assistant"]),
        st.floats(0.0, 2.0),
        st.floats(0.0, 1.0),
        st.integers(0, 4),
    ),
    max_size=30,
)
BUDGET = st.none() | st.floats(0.01, 8.0)


@settings(max_examples=150, deadline=None)
@given(requests=REQUESTS, user=BUDGET, assistant=BUDGET, both=BUDGET, at_once=st.integers(1, 8))
def test_what_is_spent_and_under_way_never_passes_a_budget(
    requests: Any, user: float | None, assistant: float | None, both: float | None, at_once: int
) -> None:
    budgets = {"user": user, "assistant": assistant, "all": both}
    bill, todo = Bill(None, budgets), iter(requests)
    held = {"user": 0.0, "assistant": 0.0}  # the test's own books: spent, and the most under way
    spent = {"user": 0.0, "assistant": 0.0}

    def within(side: str, more: float, count: dict[str, float], slack: float) -> bool:
        own, whole = budgets[side], budgets["all"]
        return (own is None or count[side] + more <= own + slack) and (
            whole is None or sum(count.values()) + more <= whole + slack
        )

    async def work() -> None:
        for side, most, share, turns in todo:
            try:
                await bill.reserve(side, most)
            except BudgetUsedUp:
                assert not within(side, most, spent, -1e-9)  # it never fits
                continue
            held[side] += most
            assert within(side, 0.0, held, 1e-9)
            for _ in range(turns):
                await asyncio.sleep(0)
            held[side] -= most - most * share
            spent[side] += most * share
            bill.settle(side, most, most * share)

    async def everybody() -> None:
        await asyncio.wait_for(asyncio.gather(*(work() for _ in range(at_once))), 5)

    asyncio.run(everybody())
    assert bill.spent == pytest.approx(spent)
    assert bill.under_way == {"user": 0.0, "assistant": 0.0}


def test_a_request_waits_for_those_under_way_and_is_refused_when_it_never_fits() -> None:
    async def story() -> list[str]:
        bill, told = Bill(None, {"assistant": 1.0, "all": 1.5}), []
        await bill.reserve("assistant", 0.8)

        async def second() -> None:
            await bill.reserve("assistant", 0.5)
            told.append("second began")

        waiting = asyncio.create_task(second())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        told.append("first done")
        bill.settle("assistant", 0.8, 0.3)
        await waiting
        for side, most in (("assistant", 0.8), ("user", 1.3)):
            with pytest.raises(BudgetUsedUp) as caught:
                await bill.reserve(side, most)
            told.append(f"{caught.value.side} {caught.value}")
        return told

    assert asyncio.run(story()) == [
        "first done",
        "second began",
        "assistant assistant.budget: $1 has no room for another request (raise it)",
        "all generate.budget: $1.5 has no room for another request (raise it)",
    ]


def test_a_wait_that_is_given_up_holds_nothing_back() -> None:
    async def story() -> Bill:
        bill = Bill(None, {"user": 1.0})
        await bill.reserve("user", 0.9)
        waiting = asyncio.create_task(bill.reserve("user", 0.5))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        bill.settle("user", 0.9, 0.1)
        await bill.reserve("user", 0.9)
        return bill

    assert asyncio.run(story()).under_way["user"] == 0.9


def test_a_bill_goes_on_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bill.json"
    with Bill(path, {}) as bill:
        asyncio.run(bill.reserve("user", 0.5))
        bill.count("user", 100, 20, 60)
        bill.settle("user", 0.5, 0.25)
        bill.count("assistant", 7, 8, 0)  # too soon to be written by itself
    bill.close()
    with Bill(path, {"all": 0.3}) as again:
        assert again.spent == {"user": 0.25, "assistant": 0.0}
        assert again.tokens["user"] == {"prompt": 100, "completion": 20, "cached": 60}
        assert again.tokens["assistant"] == {"prompt": 7, "completion": 8, "cached": 0}
        with pytest.raises(BudgetUsedUp):
            asyncio.run(again.reserve("assistant", 0.06))
    assert capsys.readouterr().err == ""


def test_what_is_reserved_and_what_is_settled_is_in_the_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bill.json"
    with Bill(path, {}) as bill:
        asyncio.run(bill.reserve("user", 0.5))
        assert json.loads(path.read_bytes())["under_way"]["user"] == 0.5
        bill.settle("user", 0.5, 0.25)
        found = json.loads(path.read_bytes())
        assert (found["under_way"]["user"], found["spent"]["user"]) == (0.0, 0.25)


def test_the_file_is_always_one_padded_line(tmp_path: Path) -> None:
    path = tmp_path / "bill.json"
    with Bill(path, {}) as bill:
        assert path.stat().st_size == WIDTH
        asyncio.run(bill.reserve("user", 1.7976931348623157e308))
        bill.spent = dict.fromkeys(bill.spent, 2.2250738585072014e-308)
        for side in bill.tokens:
            bill.count(side, 2**62, 2**62, 2**62)
        asyncio.run(bill.reserve("assistant", 1.2345678901234567e-300))
        bill.settle("assistant", 0.0, 0.0)
        whole = path.read_bytes()
        assert len(whole) == WIDTH
        assert whole.endswith(b"\n")
        assert json.loads(whole)["tokens"]["user"]["prompt"] == 2**62


def test_tokens_alone_are_written_a_few_times_a_second(tmp_path: Path) -> None:
    path = tmp_path / "bill.json"
    with Bill(path, {}) as bill:
        seen, started = set(), time.monotonic()
        while time.monotonic() - started < 0.6:
            bill.count("user", 1, 0, 0)
            seen.add(path.read_bytes())
        assert 2 <= len(seen) <= 4
        assert json.loads(path.read_bytes())["tokens"]["user"]["prompt"] > 0


@pytest.mark.parametrize(
    "text",
    [
        "garbage", "{}", "[1]", '{"spent": 1, "under_way": 2, "tokens": 3}',
        '{"spent":{"user":-1,"assistant":0},"under_way":{"user":0,"assistant":0},"tokens":{}}',
        '{"spent":{"user":true,"assistant":0},"under_way":{"user":0,"assistant":0},"tokens":{}}',
        '{"spent":{"user":0,"assistant":0},"under_way":{"user":0,"assistant":0}', "\n", "\x00" * 9,
    ],
)  # fmt: skip
def test_a_broken_bill_is_one_line_and_is_left_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bill.json"
    path.write_text(text)
    with pytest.raises(UserError, match="is not a bill that this version can read") as caught:
        Bill(path, {})
    assert len(str(caught.value).splitlines()) == 1
    assert path.read_text() == text


def test_a_run_killed_before_its_first_request_has_spent_nothing(tmp_path: Path) -> None:
    (tmp_path / "bill.json").touch()
    with Bill(tmp_path / "bill.json", {}) as bill:
        assert bill.total == 0.0


CHILD = """
import asyncio, itertools, os, sys
from pathlib import Path
from userlm_synth.money import Bill

async def spend():
    bill = Bill(Path(sys.argv[1]), {"user": 1e9, "assistant": 1e9, "all": 1e9})
    for n in itertools.count():
        await bill.reserve("user", 0.75)
        os.write(1, b".")
        await bill.reserve("assistant", 0.5)
        os.write(1, b".")
        bill.count("user", 3, 2, 1)
        bill.settle("user", 0.75, 0.25)
        os.write(1, b".")
        bill.settle("assistant", 0.5, 0.125)
        os.write(1, b".")

asyncio.run(spend())
"""


def after(steps: int) -> dict[str, float]:
    """What a reopened bill of the child holds after so many of its steps."""
    rounds, step = divmod(steps, 4)
    user = [0.0, 0.75, 0.75, 0.25][step]
    assistant = [0.0, 0.0, 0.5, 0.5][step]
    return {"user": rounds * 0.25 + user, "assistant": rounds * 0.125 + assistant}


@pytest.mark.parametrize("wait", [0.0, 0.01, 0.04])
def test_what_was_under_way_when_a_run_was_killed_counts_as_spent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wait: float
) -> None:
    path = tmp_path / "bill.json"
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE)
    assert child.stdout
    first = os.read(child.stdout.fileno(), 1)
    time.sleep(wait)
    child.send_signal(signal.SIGKILL)
    steps = len(first + child.stdout.read())
    child.wait()
    child.stdout.close()
    left = sum(json.loads(path.read_bytes())["under_way"].values())
    with Bill(path, {}) as bill:
        # it may have died between a step and its dot
        assert bill.spent in (after(steps), after(steps + 1))
        assert bill.under_way == {"user": 0.0, "assistant": 0.0}
    told = capsys.readouterr().err.splitlines()
    assert [f"up to ${left:.4f} were under way" in line for line in told] == [True] * (left > 0)
    with Bill(path, {}) as again:
        assert again.spent == bill.spent  # it counts once
    assert capsys.readouterr().err == ""


# ---- metered backends ------------------------------------------------------------------------


class Toy:
    """A backend that does what a test says."""

    name, form, context, first_token = "toy", None, None, "native"

    def __init__(self, do: Callable[[Request], Any]) -> None:
        self.do, self.signals, self.requests = do, Signals(), 0

    async def start(self) -> None:
        self.context = 2048

    async def waiting(self) -> int | None:
        return 3

    async def close(self) -> None:
        self.name = "closed"

    async def generate(self, request: Request) -> Result:
        self.requests += 1
        await asyncio.sleep(0)
        found = self.do(request)
        if isinstance(found, BaseException):
            raise found
        return await found if asyncio.iscoroutine(found) else found


PRICE = Price(100.0, 200.0, 10.0)  # USD a million tokens
IDS = Request(prompt_ids=range(1000), max_tokens=500)
MOST = 1000 * 100e-6 + 500 * 200e-6


def metered(do: Callable[[Request], Any], price: Price | None = PRICE, **budgets: float) -> Metered:
    toy: Any = Toy(do)
    return Metered(toy, "assistant", price, Bill(None, dict(budgets)))


def ask(backend: Metered, request: Request = IDS) -> Result:
    return asyncio.run(backend.generate(request))


def test_an_answer_costs_what_the_server_counted() -> None:
    one = metered(lambda _: Result("hi", "eot", (), 1000, 40, 800))
    assert ask(one).text == "hi"
    assert one.bill.spent["assistant"] == pytest.approx(200 * 100e-6 + 800 * 10e-6 + 40 * 200e-6)
    assert one.bill.spent["user"] == 0.0
    assert one.bill.tokens["assistant"] == {"prompt": 1000, "completion": 40, "cached": 800}
    assert one.bill.under_way["assistant"] == 0.0


@pytest.mark.parametrize(
    ("found", "cost"),
    [
        (Result("hi", "eot"), MOST),  # nothing counted
        (Result("bad", "error"), MOST),  # nobody knows
        (Result("", "context_full"), 0.0),  # refused unread
        (Result("hi", "eot", (), 0, 40), 1000 * 100e-6 + 40 * 200e-6),
        (Result("", "eot", (), 900, 0), 900 * 100e-6),  # an empty reply is free
    ],
)
def test_what_a_server_does_not_count_costs_the_most(found: Result, cost: float) -> None:
    one = metered(lambda _: found)
    ask(one)
    assert one.bill.spent["assistant"] == pytest.approx(cost)


@pytest.mark.parametrize(
    ("error", "cost"),
    [(UserError("a wrong key"), 0.0), (asyncio.CancelledError(), MOST), (OSError("?"), MOST)],
)
def test_a_request_that_is_given_up_may_be_billed_and_a_refused_one_is_not(
    error: BaseException, cost: float
) -> None:
    one = metered(lambda _: error)
    with pytest.raises(type(error)):
        ask(one)
    assert one.bill.spent["assistant"] == pytest.approx(cost)
    assert one.bill.under_way["assistant"] == 0.0


def test_a_cancelled_request_under_way_costs_the_most() -> None:
    one = metered(lambda _: asyncio.sleep(60))

    async def story() -> None:
        task = asyncio.create_task(one.generate(IDS))
        await asyncio.sleep(0.01)
        assert one.bill.under_way["assistant"] == pytest.approx(MOST)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(story())
    assert one.bill.spent["assistant"] == pytest.approx(MOST)


def test_nothing_is_sent_that_does_not_fit_the_budget() -> None:
    one = metered(lambda _: Result("hi", "eot", (), 1000, 10), all=MOST * 0.99)
    with pytest.raises(BudgetUsedUp):
        ask(one)
    assert one.requests == 0
    assert one.bill.spent["assistant"] == 0.0


@pytest.mark.parametrize(
    ("request_", "first_token", "tokens"),
    [
        (IDS, "native", 1000),
        (Request(prompt_ids=range(1000), banned_first=[1], max_tokens=500), "two_calls", 2001),
        (Request(prompt_ids=range(1000), max_tokens=500), "two_calls", 1000),
        (
            Request(messages=[{"role": "user", "content": "häß"}] * 2, max_tokens=500),
            "native",
            2 * 5 + 100 + 2 * MESSAGE_TOKENS,
        ),
    ],
)
def test_the_most_of_a_request_is_its_whole_prompt_and_its_token_limit(
    request_: Request, first_token: str, tokens: int
) -> None:
    one = metered(lambda _: Result("hi", "eot"))
    one.backend.first_token = first_token  # type: ignore[assignment]
    ask(one, request_)
    assert one.bill.spent["assistant"] == pytest.approx(tokens * 100e-6 + 500 * 200e-6)


def test_the_instructions_of_a_prompted_user_are_paid_for(tmp_path: Path) -> None:
    from userlm_synth.backends.prompted import PromptedBackend

    one = metered(lambda _: Result("hi", "eot"))
    prompted = PromptedBackend(one.backend)
    one.backend = prompted
    plain = Request(messages=[{"role": "system", "content": "buy a lamp"}], max_tokens=500)
    ask(one, plain)
    sent = sum(len(message["content"]) for message in prompted.asked(plain).messages)
    assert sent > 500
    assert one.bill.spent["assistant"] > sent * 100e-6 + 500 * 200e-6


@pytest.mark.parametrize("price", [None, Price(0.0, 0.0)])
def test_without_a_price_tokens_are_counted_and_nothing_is_held_back(price: Price | None) -> None:
    one = metered(lambda _: Result("hi", "eot", (), 11, 3), price, all=1e-9)
    ask(one)
    assert one.bill.total == 0.0
    assert one.bill.tokens["assistant"] == {"prompt": 11, "completion": 3, "cached": 0}


def test_a_metered_backend_is_its_backend_in_everything_else() -> None:
    one = metered(lambda _: Result("hi", "eot"))
    assert (one.name, one.form, one.context, one.first_token) == ("toy", None, None, "native")
    assert one.signals is one.backend.signals
    assert asyncio.run(one.waiting()) == 3
    asyncio.run(one.start())
    assert one.context == 2048  # learnt in start
    asyncio.run(one.close())
    assert one.name == "closed"


# ---- forecasts -------------------------------------------------------------------------------

TOKENS = {side: {"prompt": 900, "completion": 100, "cached": 0} for side in ("user", "assistant")}


def test_the_live_line_says_spent_in_all_and_left() -> None:
    spent = {"user": 0.10, "assistant": 1.13}
    assert Forecast(1, 100, spent, TOKENS).line == (
        "spent $1.23 (user $0.10, assistant $1.13), about $123 in all, $121.77 left"
    )
    assert Forecast(0, 100, spent, TOKENS).line == "spent $1.23 (user $0.10, assistant $1.13)"
    assert Forecast(100, 100, spent, TOKENS).line.endswith("about $1.23 in all, $0.00 left")
    assert Forecast(3, 9, {"user": 0.0, "assistant": 0.0}, TOKENS).line == "2,000 tokens"


def test_dialogues_under_way_count_as_half_done() -> None:
    spent = {"user": 0.0, "assistant": 6.0}
    assert Forecast(2, 100, spent, TOKENS).in_all == pytest.approx(300.0)
    assert Forecast(2, 100, spent, TOKENS, live=8).in_all == pytest.approx(100.0)
    assert Forecast(2, 4, spent, TOKENS, live=8).in_all == pytest.approx(6.0)


def test_amounts_are_written_as_people_do() -> None:
    written = [usd(x) for x in (0, 0.0042, 0.05, 0.1, 1.234, 999.5, 12345.6, 1e-7)]
    assert written == [
        "$0.00", "$0.0042", "$0.050", "$0.10", "$1.23", "$999.50", "$12,346", "$0.00000010",
    ]  # fmt: skip


def used(prompt: int, completion: int, cached: int = 0) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "cached_tokens": cached}


def test_an_estimate_is_the_mean_with_students_interval() -> None:
    held = [{"user": used(n * 1000, 0), "assistant": used(0, n * 500)} for n in (1, 2, 3)]
    prices = {"user": Price(1000.0, 0.0), "assistant": Price(0.0, 2000.0)}
    # each costs n + n USD: 2, 4, 6; mean 4, deviation 2, t(2) = 4.30265
    found = estimate(held, prices, 97, seconds=30.0, concurrency=2)
    assert found.mean == pytest.approx(4.0)
    assert found.mean_off == pytest.approx(4.30265 * 2 / 3**0.5)
    assert found.cost == pytest.approx(388.0)
    assert found.cost_off == pytest.approx(4.30265 * 2 * (97**2 / 3 + 97) ** 0.5)
    assert found.seconds == pytest.approx(970.0)
    assert found.line == (
        "3 dialogues cost $4.00 each (95 %: $0.00 to $8.97); "
        "97 more cost about $388 (95 %: $0.00 to $877) and take about 16m10s"
    )


def test_more_at_once_than_were_held_are_taken_to_be_as_fast() -> None:
    held, prices = [{"user": used(1, 1)}] * 5, {"user": Price(1.0, 1.0)}
    assert estimate(held, prices, 100, 10.0, concurrency=50).seconds == pytest.approx(20.0)
    assert estimate(held, prices, 20, 10.0, concurrency=50).seconds == pytest.approx(10.0)


def test_one_dialogue_has_no_interval_and_an_unknown_price_is_said() -> None:
    prices = {"user": Price(0.0, 0.0), "assistant": None}
    found = estimate([{"user": used(1, 1), "assistant": used(9, 9)}], prices, 10)
    assert found.mean_off is None
    assert found.line == (
        "1 dialogue cost $0.00 each; 10 more cost about $0.00; "
        "the assistant's model has no price and is not in this"
    )


@pytest.mark.parametrize(
    ("freedom", "table"),
    [(1, 12.7062), (4, 2.77645), (5, 2.57058), (9, 2.26216), (30, 2.04227), (1000, 1.96234)],
)
def test_students_quantile_agrees_with_the_tables(freedom: int, table: float) -> None:
    assert student(freedom) == pytest.approx(table, rel=2e-3)
