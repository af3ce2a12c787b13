"""Facts about the window of live dialogues: it follows what the servers tell."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from userlm_synth.backends.interface import Signals
from userlm_synth.simulate.window import FIRST, PATIENCE, Window


def window(most: int, live: int | None = None, limit: int | None = None) -> Window:
    """A window that is as full as it may be, or holds `live` dialogues."""
    made = Window(most, [])
    made.limit = made.limit if limit is None else limit
    made.live = made.limit if live is None else live
    return made


def fill(made: Window) -> None:
    made.live = made.limit


def test_it_begins_small_and_grows_while_more_dialogues_bring_more_answers() -> None:
    made, limits = window(1000), []
    for _ in range(8):
        limits.append(made.limit)
        made.look(rate=10.0 * made.limit, waiting=0, throttled=0)
        fill(made)
    assert limits == [FIRST, 128, 128, 256, 256, 512, 512, 1000]
    assert made.limit == 1000


def test_growth_that_brought_no_more_answers_is_taken_back_and_not_tried_at_once() -> None:
    made = window(1000)
    made.look(rate=500.0, waiting=0, throttled=0)
    fill(made)
    assert made.limit == 128
    made.look(rate=510.0, waiting=0, throttled=0)
    assert made.limit == FIRST
    for _ in range(PATIENCE - 1):
        fill(made)
        made.look(rate=500.0, waiting=0, throttled=0)
    assert made.limit == FIRST
    made.look(rate=500.0, waiting=0, throttled=0)
    assert made.limit == 128


def test_many_refusals_make_it_smaller_at_once() -> None:
    made = window(100, live=50)
    made.look(rate=9.0, waiting=0, throttled=3)
    assert made.limit == 35
    made.live = 35
    made.look(rate=9.0, waiting=0, throttled=3)  # no further refusal
    assert made.limit == 35


def test_a_server_that_refuses_a_few_of_any_number_keeps_the_window_it_has() -> None:
    made = window(100, live=50)
    before = made.limit
    for refusals in range(15, 150, 15):
        made.look(rate=100.0, waiting=0, throttled=refusals)
    assert made.limit == before


def test_requests_that_wait_twice_are_as_many_dialogues_too_many() -> None:
    made = window(100, limit=100)
    made.look(rate=9.0, waiting=36, throttled=0)
    assert made.limit == 100
    made.look(rate=9.0, waiting=36, throttled=0)
    assert made.limit == 64


def test_it_does_not_grow_while_there_is_room() -> None:
    made = window(1000, live=10)
    for _ in range(5):
        made.look(rate=100.0, waiting=0, throttled=0)
    assert made.limit == FIRST


def test_without_adapting_all_may_live_at_once() -> None:
    assert Window(1000, [], adapt=False).limit == 1000


@given(
    st.integers(1, 5000),
    st.lists(st.tuples(st.floats(0, 1e4), st.integers(0, 6000), st.integers(0, 3)), max_size=30),
)
def test_at_least_one_and_at_most_the_most_may_live(
    most: int, looks: list[tuple[float, int, int]]
) -> None:
    made, refusals = window(most), 0
    for rate, waiting, more in looks:
        refusals += more
        made.look(rate, waiting, refusals)
        assert 1 <= made.limit <= most
        fill(made)


class Queue:
    """A backend whose server runs so many requests at once and queues the others."""

    def __init__(self, room: int) -> None:
        self.room, self.asked, self.signals = room, 0, Signals()

    async def waiting(self) -> int:
        return max(self.asked - self.room, 0)


def test_a_server_that_queues_gets_as_many_dialogues_as_it_runs(monkeypatch: Any) -> None:
    monkeypatch.setattr("userlm_synth.simulate.window.EVERY", 0.005)
    server = Queue(40)

    async def run() -> tuple[int, int]:
        most = 0
        backend: Any = server
        async with Window(64, [backend]) as made:

            async def dialogue(number: int) -> None:
                nonlocal most
                server.asked += 1
                most = max(most, server.asked)
                await asyncio.sleep(0.008 + 0.002 * (number % 5))
                server.asked -= 1
                made.leave()

            tasks = []
            for number in range(600):
                await made.enter()
                tasks.append(asyncio.create_task(dialogue(number)))
            limit = made.limit
            await asyncio.gather(*tasks)
        return most, limit

    most, limit = asyncio.run(run())
    assert most == 64
    assert limit <= 48
