"""Several servers of one model: a session stays with its replica, whose cache holds its turns.

A session moves only where its replica is down, or has clearly more open requests than the others
have on average; then it stays at its new place.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence

from userlm_synth.backends.connections import proxy_of
from userlm_synth.errors import UserError

PATHS = ("/chat/completions", "/completions", "/models")
ROOT_PATHS = ("/metrics", "/tokenize")  # of vLLM, beside /v1
CLEARLY_MORE = 1.5, 8  # times the others' mean, plus this many open requests
RETRY_DOWN = 10.0  # seconds for which nobody asks a replica that refused a connection
MOST_MOVED = 100_000  # sessions whose new place is remembered


class Replica:
    """One server: its addresses, and how it is doing."""

    def __init__(self, name: str, url: str) -> None:
        from yarl import URL

        try:
            address = URL(url.strip().rstrip("/"))
            whole = address.host is not None and address.port is not None
        except ValueError:
            whole = False
        if not whole:
            raise UserError(f"{name}: {url!r} is no address of a server; as in http://host:8000/v1")
        self.shown = str(address.with_user(None))  # without a password
        root = URL(str(address).removesuffix("/v1"))
        self.urls = {path: URL(f"{address}{path}") for path in PATHS}
        self.urls |= {path: URL(f"{root}{path}") for path in ROOT_PATHS}
        self.secure = address.scheme == "https"
        self.proxy = proxy_of(address.scheme, address.host)
        self.open = 0  # requests under way
        self.good = False  # whether it ever answered well
        self.down_until = 0.0  # on the monotonic clock
        self.queue = True  # whether it tells how many requests wait


class Replicas:
    """Chooses the replica of each request."""

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self.all = list(replicas)
        self.moved: dict[str, Replica] = {}

    def pick(self, session: str) -> Replica:
        """The session's replica, or a better one; without a session the least busy."""
        if len(self.all) == 1:
            return self.all[0]
        now = time.monotonic()
        up = [one for one in self.all if one.down_until <= now] or self.all
        if not session:
            return min(up, key=_busy)
        home = self.moved.get(session) or self.all[zlib.crc32(session.encode()) % len(self.all)]
        if home in up and not self._overloaded(home):
            return home
        new = min(up, key=_busy)
        if new is not home:
            self.moved.pop(session, None)
            self.moved[session] = new
            if len(self.moved) > MOST_MOVED:  # the oldest: a dialogue that has long ended
                del self.moved[next(iter(self.moved))]
        return new

    def _overloaded(self, replica: Replica) -> bool:
        times, more = CLEARLY_MORE
        others = sum(one.open for one in self.all) - replica.open
        return replica.open > times * others / (len(self.all) - 1) + more

    def down(self, replica: Replica) -> bool:
        """Note that it takes no connections; whether another one may."""
        replica.down_until = time.monotonic() + RETRY_DOWN
        return any(one.down_until <= time.monotonic() for one in self.all)


def _busy(replica: Replica) -> int:
    return replica.open
