"""The Ray cluster of a run: a connection to it, and the machines that have room for workers."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from userlm_synth.errors import UserError
from userlm_synth.progress import say
from userlm_synth.recipe import Ray
from userlm_synth.simulate.worker import Worker

CRASHES = 4  # of workers on one machine, one after the other without a dialogue; then it is told


@contextmanager
def connected(settings: Ray) -> Iterator[None]:
    """A connection to the cluster that the recipe or RAY_ADDRESS names, the one that runs on this
    machine, or else one made of this machine; or the one that this process has already."""
    try:
        import ray
    except ImportError:
        raise UserError(
            "--engine ray: Ray is not installed; run pip install 'userlm-synth[ray]'"
        ) from None
    if ray.is_initialized():
        yield
        return
    address = settings.address or os.environ.get("RAY_ADDRESS")
    if address:
        _reach(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(
            address=address, log_to_driver=False, logging_level=logging.CRITICAL,
            include_dashboard=False,
        )  # fmt: skip
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        what = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{address or 'ray'}: no Ray cluster can be used there ({what})") from None
    try:
        with redirect_stdout(sys.stderr):  # where Ray tells of machines that are lost
            yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """See that something listens there: Ray itself tries a quarter of an hour (2.60)."""
    host, _, port = address.rpartition(":")
    if "://" in address or (host and not port.isdecimal()):
        raise UserError(
            f"{address}: is no HOST:PORT of a Ray cluster; run this on one of its machines"
        )
    if not host:  # auto, local
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise UserError(
            f"{address}: no Ray cluster is there ({error.strerror or error}); start one with "
            "`ray start --head`"
        ) from None


class Machines:
    """The machines of the cluster, and how many workers die on each."""

    def __init__(self, asked: Ray) -> None:
        self.asked = asked
        self.crashes: Counter[str] = Counter()  # by machine, since its last dialogue
        self.patience: dict[str, float] = {}  # until when a machine gets no new worker
        self.seen = self.waiting = False

    def places(self, taken: Counter[str]) -> Iterator[tuple[str, str]]:
        """(id, name) of a machine for each worker that has room, beside those that are there.

        Raises `UserError` where no machine ever had room. Machines may come back later.
        """
        import ray

        alive = [node for node in ray.nodes() if node["Alive"]]
        rooms = [_room(node["Resources"], self.asked) for node in alive]
        if not any(rooms):
            self._none(len(alive))
            return
        self.seen, self.waiting = True, False
        for node, room in zip(alive, rooms, strict=True):
            name = node["NodeID"]
            if time.monotonic() >= self.patience.get(name, 0.0):
                for _ in range(room - taken[name]):
                    yield name, node["NodeManagerHostname"]

    def _none(self, count: int) -> None:
        if not self.seen:
            raise UserError(
                f"generate.ray: none of {count} machines has cpus={self.asked.cpus:g} and "
                f"gpus={self.asked.gpus:g} for a worker (`ray status` shows what there is)"
            )
        if not self.waiting:
            say("  no machine is left in the cluster; waiting for one to join")
        self.waiting = True

    def worker(self, node: str) -> Any:
        """A new worker on a machine."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(node, soft=False)
        options = {"num_cpus": self.asked.cpus, "num_gpus": self.asked.gpus}
        return ray.remote(Worker).options(**options, scheduling_strategy=there).remote()

    def well(self, node: str) -> None:
        """A worker there made a dialogue."""
        self.crashes[node] = 0

    def crashed(self, node: str) -> bool:
        """A worker there died: the next one has to wait, longer each time. Returns whether it is
        too often, which a machine that is lost does not come to: it is gone by then."""
        self.crashes[node] += 1
        self.patience[node] = time.monotonic() + 2.0 ** (self.crashes[node] - 1)
        return self.crashes[node] >= CRASHES


def _room(resources: dict[str, float], asked: Ray) -> int:
    """Workers that fit on a machine; one, where they ask for nothing."""
    fits = [
        int(resources.get(name, 0.0) / amount + 1e-6)
        for name, amount in (("CPU", asked.cpus), ("GPU", asked.gpus))
        if amount
    ]
    return min(fits, default=1)


def what_happened(error: Exception) -> str:
    """Ray's account of a lost worker, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "Error: " in line), lines[0])
