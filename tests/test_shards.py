"""Facts about shards and shares: nothing is handed out twice or lost, no budget is passed."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from userlm_synth.money import BudgetUsedUp
from userlm_synth.recipe import Assistant, Generate
from userlm_synth.records import END_TOKEN, Record
from userlm_synth.simulate import Job, generate
from userlm_synth.simulate.plan import Plan
from userlm_synth.simulate.shards import Shards
from userlm_synth.simulate.shares import Share, Till
from userlm_synth.simulate.store import Store, open_store
from userlm_synth.simulate.worker import Worker

# ---- shards ----------------------------------------------------------------------------------


def intents(count: int) -> list[Record]:
    return [{"id": f"i{n}", "intent": f"buy {n} lamps"} for n in range(count)]


def finished(plan: Plan, place: int) -> Record:
    """A dialogue of a place, as short as may be."""
    planned = plan.at(place)
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "cached_tokens": 0}
    return {
        "id": planned.id, "source": "userlm_synth", "user_id": None, "language": None,
        "intent": planned.intent, "persona": None, "metadata": planned.metadata,
        "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}],
        "intent_id": planned.intent_id, "seed": planned.seed, "stop_reason": "max_turns",
        "user_model": "u", "assistant_model": "a", "guardrails": {}, "end_probabilities": [None],
        "usage": {"user": usage, "assistant": usage}, "recipe_hash": "h",
    }  # fmt: skip


async def keep(store: Store, plan: Plan, places: Iterator[int] | range) -> None:
    for place in places:
        await store.add(place, finished(plan, place), lambda: None)
    await store.flush()


@settings(max_examples=25, deadline=None)
@given(
    total=st.integers(1, 40),
    number=st.integers(1, 50),
    there=st.integers(0, 15),
    seed=st.integers(0, 999),
)
def test_workers_that_come_and_go_are_handed_each_missing_dialogue_once(
    tmp_path_factory: pytest.TempPathFactory, total: int, number: int, there: int, seed: int
) -> None:
    folder, draw = tmp_path_factory.mktemp("store"), random.Random(seed)
    former, plan = Plan(intents(20), Generate(), 0), Plan(intents(25), Generate(), 0)
    with open_store(folder, {}) as store:
        asyncio.run(keep(store, former, range(there)))  # the intents file has grown since then
        shards = Shards(plan, store, total, number, folder / "shards.json")
        missing = shards.left
        assert missing == max(total - there, 0)
        workers, kept, count = ["w0", "w1", "w2"], [], 3
        for _ in range(2000):
            if not shards.left:
                break
            worker = draw.choice(workers)
            shards.hand(worker, draw.randint(1, 6), len(workers))
            own = [name for name, one in shards.live.items() if one.worker == worker]
            if draw.random() < 0.2:
                assert shards.lost(worker) == len(own)
                workers[workers.index(worker)] = f"w{count}"
                count += 1
            else:
                for name in own[: draw.randint(0, len(own))]:
                    shards.kept(shards.finish(name))
                    kept.append(name)
        assert (shards.left, len(kept), len(set(kept))) == (0, missing, missing)
        expected = [one for one in map(plan.at, range(60)) if not store.known([one.id])][:missing]
        assert set(kept) == {one.id for one in expected}  # the same as without shards
        assert sum(sum(shard.makers.values()) for shard in shards.all) == missing
        shards.write()
        assert shards.hand("w0", 5, 1) == []


def test_a_lost_dialogue_is_handed_out_again_with_the_turns_that_came(tmp_path: Path) -> None:
    plan = Plan(intents(4), Generate(), 0)
    with open_store(tmp_path, {}) as store:
        shards = Shards(plan, store, 4, 2, tmp_path / "shards.json")
        first, second = shards.hand("w0", 4, 1)
        turn = {"content": "hello"}
        shards.turn(first.planned.id, 0, turn)
        shards.kept(shards.finish(second.planned.id))
        shards.lost("w0")
        again = [one for _ in range(3) for one in shards.hand("w1", 4, 1)]
        assert [one.turns for one in again if one.planned == first.planned] == [[turn]]
        assert len(again) == 3
        assert [shard.losses for shard in shards.all] == [1, 0]


# ---- shares of a budget ----------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    budgets=st.fixed_dictionaries({side: st.none() | st.floats(0.5, 20) for side in
                                   ("all", "user", "assistant")}),
    workers=st.integers(1, 4),
    seed=st.integers(0, 999),
)  # fmt: skip
def test_no_budget_is_passed_whoever_dies_and_what_fits_is_spent(
    budgets: dict[str, float | None], workers: int, seed: int
) -> None:
    if budgets["all"] is None:
        budgets["all"] = 15.0
    asyncio.run(spend(budgets, workers, random.Random(seed)))


async def spend(budgets: dict[str, float | None], workers: int, draw: random.Random) -> None:
    """Workers ask one request after the other, each of at most $1, until a budget is used up."""
    till, paid = Till(None, budgets), {"user": 0.0, "assistant": 0.0}
    shares = {f"w{n}": Share() for n in range(workers)}
    requests = {name: [asyncio.create_task(ask(share, paid, draw)) for _ in range(3)]
                for name, share in shares.items()}  # fmt: skip
    used_up, loss = None, draw.randint(1, 30)
    for step in range(3000):
        await asyncio.sleep(0)
        name = draw.choice(list(shares))
        report = shares[name].report()
        till.book(name, report)
        try:
            shares[name].grant(till.grant(name, report))
        except BudgetUsedUp as error:
            used_up = error
            break
        if step == loss and workers > 1:  # one is lost, with what it had reported and what not
            for task in requests.pop(name):
                task.cancel()
            till.lose(name)
            del shares[name]
        held = {side: till.spent[side] + till.under_way[side] for side in paid}
        for budget, amount in (*held.items(), ("all", sum(held.values()))):
            assert amount <= (budgets[budget] or 1e9) + 1e-9
    assert used_up is not None
    while not all(task.done() for tasks in requests.values() for task in tasks):
        for share in shares.values():
            share.close()
        await asyncio.sleep(0)
    for name, share in shares.items():
        till.book(name, share.report())
        till.leave(name)
    assert sum(till.under_way.values()) == 0
    for side in paid:
        assert till.spent[side] >= paid[side] - 1e-9
        assert till.spent[side] <= (budgets[side] or 1e9) + 1e-9
    assert till.total <= (budgets["all"] or 1e9) + 1e-9
    sums = {"all": till.total, **till.spent}
    assert budgets[used_up.side] is not None
    assert sums[used_up.side] > budgets[used_up.side] - 1.0 - 1e-9  # type: ignore[operator]


async def ask(share: Share, paid: dict[str, float], draw: random.Random) -> None:
    while True:
        side = draw.choice(["user", "assistant"])
        most = draw.uniform(0.1, 1.0)
        try:
            await share.reserve(side, most)
        except BudgetUsedUp:
            return
        cost = most
        try:
            for _ in range(draw.randint(0, 5)):
                await asyncio.sleep(0)
            cost = draw.uniform(0.0, most)
        finally:
            paid[side] += cost
            share.settle(side, most, cost)


# ---- a worker, without a cluster -------------------------------------------------------------


def scripted_job(folder: Path, count: int, **more: Any) -> Job:
    (folder / "user.json").write_text(json.dumps(["one", "two", END_TOKEN]))
    (folder / "assistant.json").write_text(json.dumps(["fine"]))
    lines = [json.dumps(one) for one in intents(count)]
    (folder / "intents.jsonl").write_text("\n".join(lines) + "\n")
    return Job(
        Generate(concurrency=3, **more), Assistant(), user=f"scripted:{folder / 'user.json'}",
        assistant=f"scripted:{folder / 'assistant.json'}", intents=folder / "intents.jsonl",
        out=folder / "out", seed=0, recipe_hash="h",
    )  # fmt: skip


def test_a_worker_gives_what_a_run_on_this_machine_writes(tmp_path: Path) -> None:
    job = scripted_job(tmp_path, 5)
    generate(job)
    plan = Plan(intents(5), job.settings, 0)

    async def work() -> tuple[Record, list[Record], list[tuple[str, int, Record]]]:
        worker = Worker()
        said = await worker.start(job, 5, str(tmp_path), {}, {})
        first, *others = map(plan.at, range(5))
        turns = [
            {"content": text, "end_probabilities": [None], "guardrails": {},
             "usage": {"user": [1, 1, 0], "assistant": [1, 1, 0]}} for text in ("other", "fine")
        ]  # fmt: skip
        todo: list[Any] = [(first, turns), *((one, []) for one in others)]
        made: list[Record] = []
        spoken: list[tuple[str, int, Record]] = []
        for step in range(100):
            report = await worker.exchange(todo if not step else [], {}, len(made) == 5, 0.1)
            made += [record for _, record in report["finished"]]
            spoken += report["turns"]
            if report["over"]:
                break
        assert report["over"]
        return said, made, spoken

    said, made, spoken = asyncio.run(work())
    assert said["settings"]["assistant"]["model"] == "scripted:assistant.json"
    local = {}
    for line in next((tmp_path / "out").glob("part-*")).read_text().splitlines():
        record = json.loads(line)
        local[record["id"]] = record
    went_on = next(one for one in made if one["id"] == plan.at(0).id)
    assert [m["content"] for m in went_on["messages"]] == ["other", "fine", "two", "fine"]
    assert {one["id"]: one for one in made if one is not went_on}.items() <= local.items()
    assert len(made) == 5
    assert [n for name, n, _ in spoken if name == plan.at(0).id] == [2, 3]  # it had 0 and 1
    sums = [turn["usage"]["user"][1] for name, _, turn in spoken if name == plan.at(1).id]
    assert sums == [1, 1, 2, 2]  # as they were then


def test_files_that_settings_name_are_the_same_for_a_worker_elsewhere(tmp_path: Path) -> None:
    chats = tmp_path / "chats.jsonl"
    record = {"id": "c", "source": "s", "user_id": None, "language": None, "intent": None,
              "persona": None, "metadata": {},
              "messages": [{"role": "user", "content": "a"}]}  # fmt: skip
    chats.write_text(json.dumps(record) + "\n")
    job = scripted_job(tmp_path, 1, turns_like=str(chats))

    async def settings_of(files: dict[str, bytes]) -> Record:
        said = await (worker := Worker()).start(job, 1, str(tmp_path), files, {})
        await worker.exchange([], {}, True, 0.1)
        found: Record = said["settings"]
        return found

    here = asyncio.run(settings_of({}))
    content = chats.read_bytes()
    chats.unlink()
    assert asyncio.run(settings_of({"turns_like": content})) == here
