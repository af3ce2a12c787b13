"""The HTTP session of a client: its connections, certificates, proxies and open files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from userlm_synth._version import __version__

if TYPE_CHECKING:
    import aiohttp

    from userlm_synth.backends.replicas import Replica

CONNECT = 10.0  # seconds for a connection
#: vLLM (uvicorn) closes a connection that is idle for 5 s; a request sent just then is lost.
IDLE = 4.0
MOST_FILES = 65_536
OTHER_FILES = 128  # what the rest of the program has open


def open_session(
    replicas: Sequence[Replica], key: str | None, timeout: float
) -> aiohttp.ClientSession:
    """A session with kept connections; `timeout` is in seconds, for one try."""
    import aiohttp

    headers = {"Content-Type": "application/json", "User-Agent": f"userlm-synth/{__version__}"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    secure = any(one.secure for one in replicas)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=max(_more_files() - OTHER_FILES, 32),
            keepalive_timeout=IDLE,
            ttl_dns_cache=300,
            ssl=_certificates() if secure else True,
        ),
        headers=headers,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=CONNECT),
    )


def proxy_of(scheme: str, host: str | None) -> str | None:
    """The proxy that the environment names (`HTTPS_PROXY`, `NO_PROXY`), looked up once."""
    from urllib.request import getproxies, proxy_bypass

    return None if host is None or proxy_bypass(host) else getproxies().get(scheme)


def _more_files() -> int:
    """Let this process open as many files as it may: each connection is one. How many those are."""
    try:
        import resource
    except ImportError:  # not on this system
        return 1024
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MOST_FILES if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (ValueError, OSError):  # macOS has a lower limit of its own
        return soft
    return wanted


def _certificates() -> Any:
    """The system's certificates and those of certifi, as Python from python.org has none."""
    import ssl

    context = ssl.create_default_context()
    try:
        import certifi
    except ImportError:
        return context
    context.load_verify_locations(certifi.where())
    return context
