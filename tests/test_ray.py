"""Facts about a run on a Ray cluster: several nodes on this machine, one of which is killed."""

from __future__ import annotations

import asyncio
import json
import pickle
import random
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from http_toys import Toy, chat, listing

from talkers import WORDS
from userlm_synth.errors import UserError
from userlm_synth.recipe import Assistant, Generate, Ray
from userlm_synth.records import Record, file_problems, parse_json
from userlm_synth.simulate import Job, generate

ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'userlm-synth[ray]')")
pytestmark = pytest.mark.slow

MANY, TURNS = 60, 3  # dialogues, and turns of each side in one
LATE = 0.02  # seconds until the server answers
AT_ONCE = 12  # dialogues of a worker


class Late(Toy):
    """Says what the request's seed decides, a moment later. Who has spoken `held` turns waits."""

    def __init__(self) -> None:
        super().__init__(_reply, listing("tiny"), None)
        self.held: int | None = None
        self.waiting = 0  # whose connection is still there

    @contextmanager
    def holding(self, said: int) -> Iterator[None]:
        """Who has spoken so many turns waits, at most till the end of it."""
        self.held = said
        try:
            yield
        finally:
            self.held = None

    async def answer(self, request: Any, told: Any) -> Any:
        """After a while."""
        if request.method == "POST":
            await asyncio.sleep(LATE)
            messages = (await request.json())["messages"]
            said = sum(one["role"] != "system" for one in messages)
            self.waiting += 1
            while self.held == said and request.transport:
                await asyncio.sleep(0.01)
            self.waiting -= 1
        return await super().answer(request, told)


def _reply(_: str, body: Record, number: int) -> Any:
    if body["model"] != "tiny":
        return 404, {}, {"error": {"message": f"the model {body['model']} does not exist"}}
    draw = random.Random(body["seed"])
    return chat(" ".join(draw.choice(WORDS) for _ in range(7)))


@pytest.fixture(scope="module")
def server() -> Iterator[Late]:
    """User and assistant, in a thread."""
    late, loop = Late(), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    runner = asyncio.run_coroutine_threadsafe(late.begin(), loop).result(10)
    yield late
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without room for workers, and two nodes with room for one each."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("NO_PROXY", "*")
        small = {"object_store_memory": 80 << 20, "include_log_monitor": False}
        head = {"num_cpus": 0, "include_dashboard": False, **small}
        made = Cluster(initialize_head=True, head_node_args=head)
        made.first, made.second = (made.add_node(num_cpus=1, **small) for _ in range(2))
        made.wait_for_nodes()
        patch.setenv("RAY_ADDRESS", made.address)
        yield made
        made.shutdown()


@pytest.fixture(scope="module")
def jobs(server: Late, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Job]:
    """A job in a folder of its own, or in one of that name."""
    folder = tmp_path_factory.mktemp("ray")
    intents = folder / "intents.jsonl"
    rows = ({"id": f"i{n}", "intent": f"buy {n} lamps for the hall"} for n in range(MANY))
    intents.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(out: str, user: str | None = None, **more: Any) -> Job:
        spec = f"openai:tiny@{server.url}"
        usual = {"num": MANY, "max_turns": TURNS, "max_tokens": 16, "concurrency": AT_ONCE}
        settings = Generate(**{**usual, "adapt": False, "ray": Ray(shards=7), **more})
        return Job(
            settings, Assistant(max_tokens=16), user=user or spec, assistant=spec, intents=intents,
            out=folder / out, seed=3, recipe_hash="h",
        )  # fmt: skip

    return make


def dialogues(job: Job) -> dict[str, Record]:
    """What is in the folder's files, by id."""
    found = {}
    for path in sorted(job.out.glob("part-*.jsonl")):
        assert file_problems(path)[1] == []
        for line in path.read_text().splitlines():
            record = json.loads(line)
            assert record["id"] not in found
            found[record["id"]] = record
    return found


def on_ray(job: Job) -> Record:
    from userlm_synth.simulate.on_ray import generate_on_ray

    return generate_on_ray(job)


@pytest.fixture(scope="module")
def local(jobs: Callable[..., Job]) -> dict[str, Record]:
    """The same dialogues held on this machine alone."""
    job = jobs("local", concurrency=MANY)
    generate(job)
    found = dialogues(job)
    assert len(found) == MANY
    return found


def stored(job: Job) -> dict[str, list[str]]:
    """What the store has of dialogues in progress."""
    turns: dict[str, list[str]] = {}
    with closing(sqlite3.connect(job.out / "store.sqlite")) as connection:
        for name, turn in connection.execute("SELECT id, turn FROM turns ORDER BY id, number"):
            turns.setdefault(name, []).append(json.loads(turn)["content"])
    return turns


def until(there: Callable[[], bool]) -> None:
    """Wait for it."""
    deadline = time.monotonic() + 60
    while not there():
        assert time.monotonic() < deadline, "the run does not come to it"
        time.sleep(0.02)


def wait_for_turns(job: Job, count: int, turns: int) -> dict[str, list[str]]:
    """Wait until so many dialogues in progress have so many turns; returns the turns of all."""

    def there() -> bool:
        with suppress(sqlite3.OperationalError):  # the store is not there yet
            return sum(len(said) == turns for said in stored(job).values()) == count
        return False

    until(there)
    return stored(job)


def asked(server: Late, since: int) -> Counter[tuple[str, ...]]:
    """What was asked: the texts of each request, the intent among them where it was the user."""
    bodies = server.bodies[since:]
    return Counter(tuple(one["content"] for one in body["messages"]) for body in bodies)


def answered(turns: dict[str, list[str]], held: dict[str, Record]) -> set[tuple[str, ...]]:
    """The requests that stored turns came from."""
    found = set()
    for name, said in turns.items():
        for number in range(len(said)):
            opening = () if number % 2 else (held[name]["intent"],)
            found.add((*opening, *said[:number]))
    return found


# ---- losses ----------------------------------------------------------------------------------


def test_nodes_that_are_killed_lose_and_double_nothing(
    jobs: Callable[..., Job], cluster: Any, server: Late, local: dict[str, Record]
) -> None:
    job, before = jobs("spread"), len(server.bodies)
    with ThreadPoolExecutor(1) as aside, server.holding(3):
        run = aside.submit(on_ray, job)
        kept, first = answered(wait_for_turns(job, 2 * AT_ONCE, 3), local), len(server.bodies)
        cluster.remove_node(cluster.first, allow_graceful=False)
        until(lambda: server.waiting == AT_ONCE)
        server.held = 5  # the other one goes on
        more, second = answered(wait_for_turns(job, AT_ONCE, 5), local), len(server.bodies)
        cluster.remove_node(cluster.second, allow_graceful=False)
        until(lambda: server.waiting == 0)
        cluster.first, cluster.second = (cluster.add_node(num_cpus=1) for _ in range(2))
        server.held = None
        counts = run.result(60)
    assert counts["accepted"] == MANY
    assert dialogues(job) == local

    assert (len(kept), len(more - kept)) == (2 * AT_ONCE * 3, AT_ONCE * 2)
    assert not kept & asked(server, first).keys()  # what has reached the store is not asked again
    assert not more & asked(server, second).keys()
    assert asked(server, before).total() == (2 * TURNS * MANY) + 2 * AT_ONCE  # those under way are
    for side in counts["tokens"].values():
        assert side["completion"] == 7 * TURNS * MANY

    manifest = parse_json((job.out / "shards.json").read_bytes())
    assert manifest["kept"] == manifest["dialogues"] == MANY
    workers = manifest["workers"].values()
    assert ["lost" in one for one in workers].count(True) == 2
    assert sum(one["made"] for one in workers) == MANY
    assert not {one["node"] for one in workers if "lost" in one} & {
        one["node"] for one in workers if one["made"]
    }  # they were killed before they had finished any
    for shard in manifest["shards"]:
        places = shard["last"] - shard["first"] + 1
        assert (shard["left"], sum(shard["workers"].values())) == (0, places)
    assert sum(shard["losses"] for shard in manifest["shards"]) >= 2


def test_a_run_that_is_complete_asks_nothing_and_a_larger_number_extends_it(
    jobs: Callable[..., Job], cluster: Any, server: Late, local: dict[str, Record]
) -> None:
    before = len(server.bodies)
    on_ray(jobs("local"))
    assert len(server.bodies) == before
    on_ray(jobs("local", num=MANY + 6))
    more = dialogues(jobs("local"))
    assert len(more) == MANY + 6
    assert {name: more[name] for name in local} == local
    assert len(server.bodies) == before + 6 * 2 * TURNS


def test_a_driver_that_is_killed_goes_on_where_it_was(
    jobs: Callable[..., Job], cluster: Any, server: Late, local: dict[str, Record]
) -> None:
    job = jobs("killed")
    code = (
        "import pickle, sys\n"
        "from userlm_synth.simulate.on_ray import generate_on_ray\n"
        "generate_on_ray(pickle.load(sys.stdin.buffer))\n"
    )
    with (
        server.holding(3),
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as driver,
    ):
        assert driver.stdin
        driver.stdin.write(pickle.dumps(job))
        driver.stdin.close()
        kept = answered(wait_for_turns(job, 2 * AT_ONCE, 3), local)
        driver.kill()
        before = len(server.bodies)
    on_ray(job)
    assert dialogues(job) == local
    assert not kept & asked(server, before).keys()


# ---- what a person has to mend ---------------------------------------------------------------


def test_what_one_worker_finds_wrong_stops_the_run_with_one_line(
    jobs: Callable[..., Job], cluster: Any, server: Late
) -> None:
    job = jobs("absent", user=f"openai:absent@{server.url}", num=1)
    with pytest.raises(UserError, match="absent") as error:
        on_ray(job)
    assert len(str(error.value).splitlines()) == 1


def test_a_cluster_without_room_for_a_worker_is_told(
    jobs: Callable[..., Job], cluster: Any
) -> None:
    job = jobs("room", ray=Ray(gpus=1))
    with pytest.raises(UserError, match="gpus=1"):
        on_ray(job)


def test_a_cluster_that_is_not_there_is_told_at_once(jobs: Callable[..., Job]) -> None:
    with socket.socket() as taken:  # and nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match=f"{address}: no Ray cluster is there"):
            on_ray(jobs("nowhere", ray=Ray(address=address)))
    with pytest.raises(UserError, match="HOST:PORT"):
        on_ray(jobs("nowhere", ray=Ray(address="ray://127.0.0.1:10001")))


def test_a_budget_is_not_passed_by_all_workers_together(
    jobs: Callable[..., Job], cluster: Any, tmp_path: Path
) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("tiny: {read: 1000, written: 1000}\n")  # a request costs some 5 cents
    job = jobs("paid", prices=str(prices), budget=10.0)
    with pytest.raises(UserError, match=r"generate.budget: \$10 .* the same command goes on"):
        on_ray(job)
    bill = parse_json((job.out / "bill.json").read_bytes())
    assert 8.0 < sum(bill["spent"].values()) <= 10.0
    assert sum(bill["under_way"].values()) == 0
    assert 0 < len(dialogues(job)) < MANY
    assert bill["spent"]["user"] == pytest.approx(bill["tokens"]["user"]["completion"] / 7 * 0.057)
