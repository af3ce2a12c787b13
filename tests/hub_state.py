"""What the test Hub remembers: repositories, commits, blobs, its request log and its faults."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from pathlib import Path
from typing import Any

USERS = {  # token: (name, role, may write)
    "hf_write": ("me", "write", True),
    "hf_fine": ("me", "fineGrained", True),
    "hf_read": ("me", "read", False),
    "hf_fine_read": ("me", "fineGrained", False),
    "hf_other": ("other", "write", True),
}
AS_LFS = (".parquet", ".safetensors", ".png", ".bin", ".gz", ".zst")
REGULAR_LIMIT = 10_000_000  # a larger file goes to LFS whatever its name
GITATTRIBUTES = b"*.parquet filter=lfs diff=lfs merge=lfs -text\n"
DATE = "2026-11-01T00:00:00.000Z"


class Answer(Exception):
    """Stop here and answer with this."""

    def __init__(self, status: int, body: Any = None, **headers: str) -> None:
        super().__init__(f"{status} {body}")
        self.status, self.body, self.headers = status, body, headers


def missing(what: str, status: int = 404, **headers: str) -> Answer:
    """404 as the Hub words it: RepoNotFound, RevisionNotFound, EntryNotFound."""
    return Answer(status, {"error": what}, X_Error_Code=what, X_Error_Message=what, **headers)


def git_blob(data: bytes) -> str:
    """The SHA-1 that git gives a blob."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Hub:
    """Everything the Hub remembers, in a folder; one lock around each request's work."""

    def __init__(self, state: Path, faults: list[dict[str, Any]] | None = None) -> None:
        self.state, self.faults = state, faults if faults is not None else []
        for folder in ("repos", "blobs", "lfs", "parts"):
            (state / folder).mkdir(parents=True, exist_ok=True)
        self.lock, self.log_lock = threading.RLock(), threading.Lock()
        self.paused, self.resume = threading.Event(), threading.Event()
        self.chunk = 0  # bytes; LFS files above it are sent in parts; 0: always in one
        self.xet: Path | None = None  # a folder: files may come through Xet
        self.url = ""
        self.connections = 0

    # Repositories ---------------------------------------------------------------------------
    def file(self, kind: str, repo: str) -> Path:
        return self.state / "repos" / f"{kind}--{repo.replace('/', '--')}.json"

    def repo(self, repo: str, kind: str = "datasets") -> dict[str, Any]:
        """What is known of a repository: private, gated, commits, tags."""
        try:
            found: dict[str, Any] = json.loads(self.file(kind, repo).read_text())
        except FileNotFoundError:
            raise missing("RepoNotFound") from None
        return found

    def save(self, repo: dict[str, Any]) -> None:
        path = self.file(repo["kind"], repo["id"])
        path.with_suffix(".part").write_text(json.dumps(repo))
        path.with_suffix(".part").replace(path)

    def create(self, name: str, kind: str, private: bool) -> dict[str, Any]:
        """A new repository with the Hub's first commit."""
        repo: dict[str, Any] = {"id": name, "kind": kind, "private": private, "gated": False}
        repo |= {"commits": [], "tags": {}}
        self.commit(repo, {".gitattributes": self.blob(GITATTRIBUTES)}, "initial commit")
        return repo

    def commit(self, repo: dict[str, Any], tree: dict[str, Any], title: str) -> str:
        parent = repo["commits"][-1]["id"] if repo["commits"] else ""
        text = json.dumps([parent, tree, title, len(repo["commits"])], sort_keys=True)
        digest = hashlib.sha1(text.encode()).hexdigest()
        repo["commits"].append({"id": digest, "title": title, "tree": tree})
        self.save(repo)
        return digest

    def put(self, name: str, files: dict[str, bytes], kind: str = "datasets", **more: Any) -> str:
        """Somebody else's commit: `files` are added; `more`: private, gated of a new one."""
        with self.lock:
            try:
                repo = self.repo(name, kind)
            except Answer:
                repo = self.create(name, kind, more.pop("private", False))
            repo |= more
            tree = dict(repo["commits"][-1]["tree"])
            tree |= {path: self.stored(path, data) for path, data in files.items()}
            return self.commit(repo, tree, "by hand")

    def stored(self, path: str, data: bytes) -> dict[str, Any]:
        if not path.endswith(AS_LFS):
            return self.blob(data)
        digest = hashlib.sha256(data).hexdigest()
        (self.state / "lfs" / digest).write_bytes(data)
        return self.pointer(digest, len(data))

    def blob(self, data: bytes) -> dict[str, Any]:
        (self.state / "blobs" / git_blob(data)).write_bytes(data)
        return {"oid": git_blob(data), "size": len(data)}

    @staticmethod
    def pointer(digest: str, size: int) -> dict[str, Any]:
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {size}\n"
        lfs = {"oid": digest, "size": size, "pointerSize": len(text)}
        return {"oid": git_blob(text.encode()), "size": size, "lfs": lfs}

    @staticmethod
    def at(repo: dict[str, Any], revision: str) -> dict[str, Any]:
        """The commit of a branch, tag or hash."""
        if revision in ("main", "HEAD", "refs/heads/main"):
            found: dict[str, Any] = repo["commits"][-1]
            return found
        wanted = repo["tags"].get(revision.removeprefix("refs/tags/"), revision)
        for commit in repo["commits"]:
            if commit["id"] == wanted:
                return dict(commit)
        raise missing("RevisionNotFound")

    def content(self, entry: dict[str, Any]) -> Path:
        if "lfs" in entry:
            return self.state / "lfs" / str(entry["lfs"]["oid"])
        return self.state / "blobs" / str(entry["oid"])

    # What a test looks at --------------------------------------------------------------------
    def states(self, name: str, kind: str = "datasets") -> list[dict[str, str]]:
        """Every state that main ever had: {path: sha256 or git hash}, `.gitattributes` apart."""
        return [
            {
                path: entry.get("lfs", entry)["oid"]
                for path, entry in commit["tree"].items()
                if path != ".gitattributes"
            }
            for commit in self.repo(name, kind)["commits"]
        ]

    def requests(self, method: str = "", path: str = "") -> list[dict[str, Any]]:
        """The requests so far, of one method, whose path holds the expression."""
        with self.log_lock:
            log = self.state / "log.jsonl"
            lines = log.read_text().splitlines() if log.exists() else []
        rows = [json.loads(line) for line in lines]
        return [r for r in rows if method in ("", r["method"]) and re.search(path, r["path"])]

    def idle(self) -> None:
        """Wait until nobody is connected, twice: a connection may still be on its way in."""
        limit, seen = time.monotonic() + 60, 0
        while seen < 2 and time.monotonic() < limit:
            seen = 0 if self.connections else seen + 1
            time.sleep(0.01)
        assert seen == 2, f"{self.connections} connections are open"

    def note(self, **row: Any) -> None:
        with self.log_lock, (self.state / "log.jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")

    def fault(self, method: str, path: str) -> dict[str, Any]:
        """The first rule that applies, used up by one."""
        with self.log_lock:
            for rule in self.faults:
                if rule.get("method", method) != method or not re.search(rule["path"], path):
                    continue
                if rule.get("skip", 0) > 0:
                    rule["skip"] -= 1
                elif rule.get("times", 1) > 0:
                    rule["times"] = rule.get("times", 1) - 1
                    return rule
        return {}
