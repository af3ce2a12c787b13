"""One repository on the Hub: what it holds, who may write to it, and its errors in one line.

Nothing here changes what a repository holds; `release` does. Every question is asked again after
a failure that passes (a lost answer, 429, 5xx). The token is never shown.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from userlm_synth.errors import UserError
from userlm_synth.records import Record

T = TypeVar("T")
WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before each further try
BUSY = frozenset((408, 409, 412, 425, 429, 500, 502, 503, 504))
GIT_ATTRIBUTES = ".gitattributes"  # the Hub's own; says what goes to LFS
TOKEN = "set HF_TOKEN, or run `hf auth login`"
TOKENS_PAGE = "https://huggingface.co/settings/tokens"


@dataclass(frozen=True)
class Entry:
    """A file of a commit: its size, and SHA-256 (LFS) or git's hash of the blob."""

    size: int
    blob: str
    sha256: str | None


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it; the client wraps upload errors."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def status_of(error: BaseException) -> int | None:
    """The HTTP status that the Hub answered with, if it answered."""
    for one in causes(error):
        status = getattr(getattr(one, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
    return None


def is_network(error: BaseException) -> bool:
    """No answer: refused, reset, cut off, timed out. By name: `httpx` changed its module's."""
    return any(
        kind.__name__ == "TransportError" and kind.__module__.startswith("httpx")
        for one in causes(error)
        for kind in type(one).__mro__
    )


def passes(error: BaseException) -> bool:
    """True when the same request may well succeed later."""
    if any(isinstance(one, UserError) for one in causes(error)):
        return False
    status = status_of(error)
    if status is not None:
        return status in BUSY
    # A busy proxy answers in HTML where JSON is due; Xet's uploader raises bare RuntimeErrors.
    broken = isinstance(error, json.JSONDecodeError) or type(error) is RuntimeError
    return is_network(error) or broken


def patiently(ask: Callable[[], T]) -> T:
    """What `ask` returns, asked again after failures that pass, except a conflict."""
    for wait in WAITS:
        try:
            return ask()
        except Exception as error:
            if not passes(error) or status_of(error) in (409, 412):
                raise
            time.sleep(wait)
    return ask()


def explain(error: BaseException, repo: str, doing: str) -> UserError:
    """The Hub's error as one line: what, where, what to do."""
    from huggingface_hub import errors

    found = next((one for one in causes(error) if isinstance(one, UserError)), None)
    if found is not None:
        return found
    kinds: tuple[tuple[type[BaseException], str], ...] = (
        (errors.LocalTokenNotFoundError, f"no token for the Hub; {TOKEN}"),
        (errors.OfflineModeIsEnabled, "HF_HUB_OFFLINE forbids the network; unset it"),
        (errors.GatedRepoError, "is gated; ask for access on its page, with this token's account"),
        (errors.RepositoryNotFoundError, f"no such repository, or no access to it; {TOKEN}"),
        (errors.RevisionNotFoundError, "has no such revision"),
        (errors.HFValidationError, f"is no repository name: {one_line(error)}"),
    )
    for kind, text in kinds:
        if any(isinstance(one, kind) for one in causes(error)):
            return UserError(f"{repo}: {text} (while {doing})")
    status = status_of(error)
    if status is not None:
        return UserError(f"{repo}: {_status_text(status, error)} (while {doing})")
    if is_network(error):
        return UserError(
            f"{repo}: the Hub at {endpoint()} cannot be reached while {doing} "
            f"({one_line(error)}); run the same command again, it sends only what is missing"
        )
    return UserError(f"{repo}: {doing} failed: {one_line(error)}")


def _status_text(status: int, error: BaseException) -> str:
    said = f" ({one_line(error)})"
    if status == 401:
        return f"the Hub does not know this token; make one on {TOKENS_PAGE}, then {TOKEN}"
    if status == 403:
        return (
            "the token may not write here; make a token with write permission on "
            f"{TOKENS_PAGE}, then {TOKEN}{said}"
        )
    if status in (402, 413, 507):
        return f"the Hub's storage quota or size limit is reached{said}"
    if status == 429:
        return "the Hub's rate limit is reached; run the same command again in some minutes"
    if status in BUSY:
        return (
            f"the Hub answers {status} again and again{said}; run the same command again later, "
            "it sends only what is missing"
        )
    return f"the Hub answers {status}{said}"


def one_line(error: BaseException) -> str:
    """The server's own words if there are any, else the last lines of the error."""
    for one in causes(error):
        if said := str(getattr(one, "server_message", None) or "").strip():
            return " ".join(said.split())[:300]
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:300]


def endpoint() -> str:
    """The Hub's address: HF_ENDPOINT or huggingface.co."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def has_token() -> bool:
    """A token in the environment, or saved by `hf auth login`."""
    from huggingface_hub import get_token

    return bool(get_token())


def check_name(repo_id: str) -> None:
    """Refuse what can be no repository's name, without asking the Hub."""
    import huggingface_hub.utils
    from huggingface_hub.errors import HFValidationError

    client: Any = huggingface_hub.utils
    try:
        client.validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"{repo_id!r} is no repository name: {one_line(error)}") from error


class Remote:
    """A dataset or model repository, asked through the real client."""

    def __init__(self, repo_id: str, kind: str) -> None:
        from huggingface_hub import HfApi

        self.api: Any = HfApi()
        self.repo_id, self.kind = repo_id, kind
        self.at: dict[str, Any] = {"repo_id": repo_id, "repo_type": kind}

    @classmethod
    def signed_in(cls, repo_id: str, kind: str) -> Remote:
        """With the token's own namespace where the name has none; a read token is refused."""
        if not has_token():
            raise UserError(f"{repo_id}: pushing needs a token of the Hub; {TOKEN}")
        remote = cls(repo_id, kind)
        me: Record = remote.ask("asking whose token this is", remote.api.whoami)
        role = me.get("auth", {}).get("accessToken", {}).get("role")
        if role == "read":
            raise UserError(
                f"{repo_id}: the token of {me.get('name')} may only read; make one with write "
                f"permission on {TOKENS_PAGE}, then {TOKEN}"
            )
        return remote if "/" in repo_id else cls(f"{me['name']}/{repo_id}", kind)

    def ask(self, doing: str, call: Callable[..., T], **settings: Any) -> T:
        """Call the client patiently; its errors become one line."""
        try:
            return patiently(lambda: call(**settings))
        except Exception as error:
            raise explain(error, self.repo_id, doing) from error

    @property
    def url(self) -> str:
        """The repository's page."""
        return f"{endpoint()}/{'datasets/' if self.kind == 'dataset' else ''}{self.repo_id}"

    def info(self) -> Any | None:
        """What the Hub says of the repository; None where there is none that we may see."""
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

        try:
            return patiently(lambda: self.api.repo_info(**self.at))
        except GatedRepoError as error:
            raise explain(error, self.repo_id, "looking at it") from error
        except RepositoryNotFoundError:
            return None
        except Exception as error:
            raise explain(error, self.repo_id, "looking at it") from error

    def create(self, private: bool) -> None:
        """Make the repository unless it is there."""
        self.ask("creating it", self.api.create_repo, **self.at, private=private, exist_ok=True)

    def head(self) -> str | None:
        """The commit that main is at."""
        info = self.ask("reading main", self.api.repo_info, **self.at, revision="main")
        return None if info.sha is None else str(info.sha)

    def tree(self, revision: str | None) -> dict[str, Entry]:
        """Every file of a commit but the Hub's own `.gitattributes`."""
        if revision is None:
            return {}
        asked = {**self.at, "recursive": True, "revision": revision}
        rows = self.ask("reading its files", lambda: list(self.api.list_repo_tree(**asked)))
        return {
            row.path: Entry(row.size, row.blob_id, row.lfs.sha256 if row.lfs else None)
            for row in rows
            if hasattr(row, "blob_id") and row.path != GIT_ATTRIBUTES
        }

    def tags(self) -> dict[str, str]:
        """{tag: commit}."""
        refs = self.ask("reading its tags", self.api.list_repo_refs, **self.at)
        return {tag.name: str(tag.target_commit) for tag in refs.tags}

    def text(self, path: str, revision: str) -> str:
        """A small file of a commit."""
        asked = {**self.at, "filename": path, "revision": revision}
        return Path(self.ask(f"reading {path}", self.api.hf_hub_download, **asked)).read_text()
