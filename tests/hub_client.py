"""A release folder of a few files, and its push by the real client in a process of its own."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hub_process
from hub_server import client_environment
from hub_state import Hub, git_blob
from warm import Child

SCRIPT = """
import json, sys
from pathlib import Path
from huggingface_hub.utils import _http
from userlm_synth.errors import UserError
from userlm_synth.hub import release, remote
asked = json.loads(sys.argv[1])
remote.WAITS = (0.05,) * 4  # the facts under test, not the waiting; the client's own below
_http.http_backoff.__kwdefaults__["base_wait_time"] = 0.05
try:
    done = release.publish(Path(asked.pop("folder")), asked.pop("repo"), **asked)
except UserError as error:
    sys.exit(f"error: {error}")
print(json.dumps([done, release.outcome_text(done)]))
"""
REPO = "me/talks"
FRONT = "---\nlicense: mit\n---\n# Talks\n"


def release_folder(folder: Path, version: int, shards: int = 3) -> Path:
    """Shards of rows, a card and checksums; a file of version 1 that version 2 lacks."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "data").mkdir(parents=True)
    for shard in range(shards):
        same = shard == 0  # one shard is the same in every version
        texts = [f"v{0 if same else version} shard {shard} row {row}" for row in range(400)]
        messages = [[{"role": "user", "content": text}] for text in texts]
        path = folder / "data" / f"train-{shard:05d}-of-{shards:05d}.parquet"
        pq.write_table(pa.table({"messages": messages, "id": texts}), path)
    (folder / "README.md").write_text(f"{FRONT}version {version}\n")
    (folder / "manifest.json").write_text(json.dumps({"version": version}))
    (folder / ("old.txt" if version == 1 else "new.txt")).write_text("here\n")
    return summed(folder)


def summed(folder: Path) -> Path:
    """Write SHA256SUMS of what is there."""
    (folder / "SHA256SUMS").unlink(missing_ok=True)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in paths]
    (folder / "SHA256SUMS").write_text("".join(lines))
    return folder


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def state_of(folder: Path) -> dict[str, str]:
    """What `Hub.states` has to say of a folder that is there, whole."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): sha256(path)
        if path.suffix == ".parquet"
        else git_blob(path.read_bytes())
        for path in paths
    }


@dataclass
class Pushed:
    """What a push came to: its plan and text, or its error."""

    code: int
    plan: dict[str, Any]
    text: str
    err: str

    @property
    def error(self) -> str:
        """The one line of a refused push."""
        assert self.code == 1, (self.code, self.plan, self.err)
        assert "Traceback" not in self.err, self.err
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert lines == self.err.splitlines()[-1:], self.err
        return lines[0]

    @property
    def sent(self) -> list[str]:
        return [row["path"] for row in self.plan["send"]]


class Pusher:
    """Pushes to one test Hub from processes of their own."""

    def __init__(self, hub: Hub, home: Path) -> None:
        self.hub, self.home = hub, home

    def start(
        self, folder: Path, repo: str = REPO, *, token: str = "hf_write", **asked: Any
    ) -> Child:
        environment = client_environment(self.hub, self.home, token)
        environment |= asked.pop("environment", {})
        settings = {"kind": "dataset", "public": False, "tag": None, "dry_run": False} | asked
        settings |= {"folder": str(folder), "repo": repo}
        return hub_process.start(SCRIPT, json.dumps(settings), **environment)

    def __call__(self, folder: Path, repo: str = REPO, **asked: Any) -> Pushed:
        process = self.start(folder, repo, **asked).wait()
        code = process.returncode
        assert code is not None
        plan, text = json.loads(process.stdout) if code == 0 else ({}, "")
        return Pushed(code, plan, text, process.stderr)

    def uploads(self) -> list[str]:
        """What was put into the bucket, whole, in order: {hash} of each PUT that worked."""
        rows = self.hub.requests("PUT", "^/bucket/")
        return [row["path"].split("/")[-1] for row in rows if row["status"] == 200]
