"""A small Hub on this machine, for the real `huggingface_hub` and `datasets` clients: read, write.

    python tests/hub_server.py --port 8800 --state DIR [--faults FILE.json]
    HF_ENDPOINT=http://127.0.0.1:8800 HF_TOKEN=hf_write HF_HUB_DISABLE_XET=1 hf upload ...

Repositories, blobs and the request log lie in the state folder and outlive the process. Every
commit ever made is kept, so a test sees each state that `main` had. Faults are rules:
`{"method": "PUT", "path": REGEX, "do": WHAT, "times": 1, "skip": 0, "status": 503, "seconds": 1}`
with WHAT one of `status` (answer with it, do nothing), `lose` (do it, close without an answer),
`break` (close in the middle of the request's body), `slow` (wait, then do it), `pause` and
`pause_after` (wait for `resume` before or after doing it) and `call` (in a test: a function first).
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import yaml
from hub_http import Requests
from hub_state import AS_LFS, DATE, REGULAR_LIMIT, USERS, Answer, Hub, missing


class Handler(Requests):
    """The Hub's endpoints; `hub` is set on a subclass."""

    # Who asks --------------------------------------------------------------------------------
    def _user(self) -> tuple[str, str, bool]:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if not token:
            return ("", "", False)
        if token not in USERS:
            text = "Invalid credentials in Authorization header"
            raise Answer(401, {"error": text}, X_Error_Message=text)
        return USERS[token]

    def _readable(self, name: str, kind: str) -> dict[str, Any]:
        user = self._user()[0]
        with suppress(Answer):
            repo = self.hub.repo(name, kind)
            if not repo["private"] or user == name.split("/")[0]:
                return repo
        raise missing("RepoNotFound", 404 if user else 401)

    def _writable(self, name: str, kind: str) -> dict[str, Any]:
        repo = self._readable(name, kind)
        self._may_write(name)
        return repo

    def _may_write(self, name: str) -> None:
        user, _, writes = self._user()
        if not user:
            raise Answer(401, {"error": "Unauthorized"})
        if not writes or user != name.split("/")[0]:
            text = f"You don't have the rights to write to the namespace {name.split('/')[0]!r}"
            raise Answer(403, {"error": text}, X_Error_Message=text)

    # What is asked ---------------------------------------------------------------------------
    def _answer(self) -> Answer:
        for method, pattern, work in ROUTES:
            asked = "GET" if self.command == "HEAD" else self.command
            if method == asked and (found := re.fullmatch(pattern, self.route)):
                answer: Answer = work(self, **found.groupdict())
                return answer
        return Answer(404, {"error": f"no such endpoint: {self.command} {self.route}"})

    def json(self) -> Any:
        return json.loads(self.body)

    def whoami(self) -> Answer:
        name, role, _ = self._user()
        if not name:
            raise Answer(401, {"error": "Invalid username or password."})
        token = {"displayName": "test", "role": role}
        auth = {"type": "access_token", "accessToken": token}
        return Answer(200, {"type": "user", "name": name, "orgs": [], "auth": auth})

    def create(self) -> Answer:
        asked = self.json()
        user = asked.get("organization") or self._user()[0]
        name, kind = f"{user}/{asked['name']}", asked.get("type", "model") + "s"
        self._may_write(name)
        if self.hub.file(kind, name).exists():
            raise Answer(409, {"error": "You already created this repo", "url": self.hub.url})
        private = asked.get("visibility", "public") == "private" or bool(asked.get("private"))
        self.hub.create(name, kind, private)
        return Answer(200, {"url": f"{self.hub.url}/{name}", "name": name})

    def validate_yaml(self) -> Answer:
        found = re.match(r"---\n(.*?)\n---\s*\n", self.json()["content"] + "\n", re.S)
        try:
            front = yaml.safe_load(found[1]) if found else {}
            assert isinstance(front, dict)
        except (yaml.YAMLError, AssertionError):
            errors = [{"message": "the front matter is no YAML mapping"}]
            raise Answer(400, {"errors": errors, "warnings": []}) from None
        wrong = (
            [{"message": '"license" must be a string'}] if front.get("license", "") == [] else []
        )
        return Answer(400 if wrong else 200, {"errors": wrong, "warnings": []})

    def preupload(self, kind: str, name: str, revision: str) -> Answer:
        tree = self.hub.at(self._writable(name, kind), revision)["tree"]
        modes = []
        for file in self.json()["files"]:
            path, entry = file["path"], tree.get(file["path"], {})
            large = path.endswith(AS_LFS) or file["size"] > REGULAR_LIMIT
            row = {"path": path, "uploadMode": "lfs" if large else "regular"}
            modes.append({**row, "shouldIgnore": False, "oid": entry.get("lfs", entry).get("oid")})
        return Answer(200, {"files": modes, "commitOid": None})

    def lfs_batch(self, name: str, kind: str | None) -> Answer:
        self._writable(name, (kind or "models").rstrip("/"))
        objects = [self._lfs_object(one) for one in self.json()["objects"]]
        return Answer(200, {"transfer": "multipart", "objects": objects})

    def _lfs_object(self, one: dict[str, Any]) -> dict[str, Any]:
        if (self.hub.state / "lfs" / one["oid"]).exists():
            return one
        bucket = self.hub.url.replace("127.0.0.1", "localhost")  # another host, as on the Hub
        upload: dict[str, Any] = {"href": f"{bucket}/bucket/{one['oid']}"}
        if self.hub.chunk and one["size"] > self.hub.chunk:
            count = -(-one["size"] // self.hub.chunk)
            places = [f"{place:05d}" for place in range(1, count + 1)]
            upload["href"] = f"{self.hub.url}/complete/{one['oid']}"
            upload["header"] = {p: f"{bucket}/part/{one['oid']}/{p}" for p in places}
            upload["header"]["chunk_size"] = str(self.hub.chunk)
        return {**one, "actions": {"upload": upload, "verify": {"href": f"{self.hub.url}/verify"}}}

    def bucket_put(self, oid: str) -> Answer:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Answer(400, {"error": "XAmzContentSHA256Mismatch"})
        (self.hub.state / "lfs" / oid).write_bytes(self.body)
        return Answer(200, b"", ETag=f'"{oid}"')

    def part_put(self, oid: str, place: str) -> Answer:
        (self.hub.state / "parts" / f"{oid}-{place}").write_bytes(self.body)
        return Answer(200, b"", ETag=f'"{hashlib.md5(self.body).hexdigest()}"')

    def complete(self, oid: str) -> Answer:
        places = [f"{part['partNumber']:05d}" for part in self.json()["parts"]]
        data = b"".join(
            (self.hub.state / "parts" / f"{oid}-{place}").read_bytes() for place in places
        )
        if hashlib.sha256(data).hexdigest() != oid:
            raise Answer(400, {"error": "the parts are not the file"})
        (self.hub.state / "lfs" / oid).write_bytes(data)
        return Answer(200, {})

    def verify(self) -> Answer:
        asked = self.json()
        file = self.hub.state / "lfs" / asked["oid"]
        right = file.exists() and file.stat().st_size == asked["size"]
        return Answer(200 if right else 404, {} if right else {"error": "not uploaded"})

    def xet_token(self, kind: str, name: str, revision: str, how: str) -> Answer:
        del revision
        _ = self._writable(name, kind) if how == "write" else self._readable(name, kind)
        if self.hub.xet is None:
            raise Answer(404, {"error": "no Xet here"})
        token = {"casUrl": f"local://{self.hub.xet}", "accessToken": "xet", "exp": 4_000_000_000}
        heads = {"X-Xet-Cas-Url": token["casUrl"], "X-Xet-Access-Token": "xet"}
        return Answer(200, token, **heads, **{"X-Xet-Token-Expiration": "4000000000"})

    def commit(self, kind: str, name: str, revision: str) -> Answer:
        assert revision == "main"
        repo = self._writable(name, kind)
        lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        header, head = lines[0]["value"], repo["commits"][-1]
        if header.get("parentCommit", head["id"]) != head["id"]:
            text = "A commit has happened since. Please refresh and try again."
            raise Answer(412, {"error": text}, X_Error_Message=text)
        tree = dict(head["tree"])
        for line in lines[1:]:
            key, value = line["key"], line["value"]
            if key == "file":
                tree[value["path"]] = self.hub.blob(base64.b64decode(value["content"]))
            elif key == "lfsFile":
                if not (self.hub.state / "lfs" / value["oid"]).exists() and not self.hub.xet:
                    text = "LFS pointer pointed to a file that does not exist"
                    raise Answer(400, {"error": text}, X_Error_Message=text)
                tree[value["path"]] = self.hub.pointer(value["oid"], value["size"])
            elif key == "deletedFile":
                del tree[value["path"]]
            else:
                raise Answer(400, {"error": f"unknown operation {key}"})
        digest = self.hub.commit(repo, tree, header["summary"])
        url = f"{self.hub.url}/{kind}/{name}/commit/{digest}"
        return Answer(200, {"success": True, "commitOid": digest, "commitUrl": url})

    def info(self, kind: str, name: str, revision: str = "main") -> Answer:
        repo = self._readable(name, kind)
        commit = self.hub.at(repo, revision)
        files = [{"rfilename": path} for path in commit["tree"]]
        more = {"tags": [], "createdAt": DATE, "lastModified": DATE, "siblings": files}
        known = {key: repo[key] for key in ("id", "private", "gated")}
        return Answer(200, {**known, "author": name.split("/")[0], "sha": commit["id"], **more})

    def tree(self, kind: str, name: str, revision: str, path: str | None = None) -> Answer:
        tree = self.hub.at(self._readable(name, kind), revision)["tree"]
        under = f"{path.strip('/')}/" if path and path.strip("/") else ""
        deep = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        rows: dict[str, dict[str, Any]] = {}
        for file, entry in sorted(tree.items()):
            if not file.startswith(under):
                continue
            inner = file[len(under) :].split("/")
            for depth in range(1, len(inner) if deep else min(2, len(inner))):
                folder = under + "/".join(inner[:depth])
                rows[folder] = {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0}
            if deep or len(inner) == 1:
                rows[file] = {"type": "file", "path": file, **entry}
        if under and not rows:
            raise missing("EntryNotFound")
        return Answer(200, list(rows.values()))

    def paths_info(self, kind: str, name: str, revision: str) -> Answer:
        tree = self.hub.at(self._readable(name, kind), revision)["tree"]
        asked = parse_qs(self.body.decode())["paths"] if b"paths=" in self.body else []
        asked = asked or self.json()["paths"]
        rows = [{"type": "file", "path": p, **tree[p]} for p in asked if p in tree]
        folders = [p for p in asked if any(file.startswith(p + "/") for file in tree)]
        rows += [{"type": "directory", "path": p, "oid": "0" * 40, "size": 0} for p in folders]
        return Answer(200, rows)

    def refs(self, kind: str, name: str) -> Answer:
        repo = self._readable(name, kind)
        head = {"name": "main", "ref": "refs/heads/main", "targetCommit": repo["commits"][-1]["id"]}
        tags = [
            {"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": commit}
            for tag, commit in repo["tags"].items()
        ]
        return Answer(200, {"branches": [head], "converts": [], "tags": tags})

    def commits(self, kind: str, name: str, revision: str) -> Answer:
        repo = self._readable(name, kind)
        self.hub.at(repo, revision)
        rows = [
            {"id": c["id"], "title": c["title"], "message": "", "date": DATE, "authors": []}
            for c in reversed(repo["commits"])
        ]
        return Answer(200, rows)

    def tag(self, kind: str, name: str, revision: str) -> Answer:
        repo = self._writable(name, kind)
        wanted = self.json()["tag"]
        if wanted in repo["tags"]:
            raise Answer(409, {"error": f"Tag {wanted} already exists"})
        repo["tags"][wanted] = self.hub.at(repo, revision)["id"]
        self.hub.save(repo)
        return Answer(200, {})

    def untag(self, kind: str, name: str, revision: str) -> Answer:
        repo = self._writable(name, kind)
        repo["tags"].pop(revision, None)
        self.hub.save(repo)
        return Answer(200, {})

    def settings(self, kind: str, name: str) -> Answer:
        repo, asked = self._writable(name, kind), self.json()
        if "visibility" in asked or "private" in asked:
            repo["private"] = asked.get("visibility") == "private" or asked.get("private") is True
        repo["gated"] = asked.get("gated", repo["gated"])
        self.hub.save(repo)
        return Answer(200, {})

    def auth_check(self, kind: str, name: str) -> Answer:
        repo = self._readable(name, kind)
        self._gate(repo)
        return Answer(200, {})

    def _gate(self, repo: dict[str, Any]) -> None:
        if repo["gated"] and self._user()[0] != repo["id"].split("/")[0]:
            text = f"Access to {repo['id']} is restricted."
            status = 403 if self._user()[0] else 401
            raise Answer(status, {"error": text}, X_Error_Code="GatedRepo", X_Error_Message=text)

    def resolve(self, name: str, revision: str, path: str, kind: str | None) -> Answer:
        repo = self._readable(name, (kind or "models").rstrip("/"))
        self._gate(repo)
        commit = self.hub.at(repo, revision)
        entry = commit["tree"].get(path)
        if entry is None:
            raise missing("EntryNotFound", X_Repo_Commit=commit["id"])
        heads = {"X_Repo_Commit": commit["id"], "ETag": f'"{entry["oid"]}"'}
        if "lfs" not in entry:
            return Answer(200, self.hub.content(entry), **heads)
        digest = entry["lfs"]["oid"]
        heads["Location"] = f"{self.hub.url.replace('127.0.0.1', 'localhost')}/bucket/{digest}"
        heads |= {"X_Linked_Etag": f'"{digest}"', "X_Linked_Size": str(entry["size"])}
        return Answer(302, b"", **heads)

    def bucket_get(self, oid: str) -> Answer:
        file = self.hub.state / "lfs" / oid
        return Answer(200, file, ETag=f'"{oid}"') if file.exists() else Answer(404, b"")


API = r"/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)"
ANY = r"/(?P<kind>datasets/)?(?P<name>[^/]+/[^/]+?)"
ROUTES: list[tuple[str, str, Any]] = [
    ("GET", r"/api/whoami-v2", Handler.whoami),
    ("POST", r"/api/repos/create", Handler.create),
    ("POST", r"/api/validate-yaml", Handler.validate_yaml),
    ("POST", API + r"/preupload/(?P<revision>.+)", Handler.preupload),
    ("POST", ANY + r"\.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("PUT", r"/bucket/(?P<oid>\w+)", Handler.bucket_put),
    ("GET", r"/bucket/(?P<oid>\w+)", Handler.bucket_get),
    ("PUT", r"/part/(?P<oid>\w+)/(?P<place>\d+)", Handler.part_put),
    ("POST", r"/complete/(?P<oid>\w+)", Handler.complete),
    ("POST", r"/verify", Handler.verify),
    ("GET", API + r"/xet-(?P<how>read|write)-token/(?P<revision>.+)", Handler.xet_token),
    ("POST", API + r"/commit/(?P<revision>.+)", Handler.commit),
    ("GET", API, Handler.info),
    ("GET", API + r"/revision/(?P<revision>.+)", Handler.info),
    ("GET", API + r"/tree/(?P<revision>[^/]+)(?P<path>/.*)?", Handler.tree),
    ("POST", API + r"/paths-info/(?P<revision>.+)", Handler.paths_info),
    ("GET", API + r"/refs", Handler.refs),
    ("GET", API + r"/commits/(?P<revision>.+)", Handler.commits),
    ("POST", API + r"/tag/(?P<revision>.+)", Handler.tag),
    ("DELETE", API + r"/tag/(?P<revision>.+)", Handler.untag),
    ("PUT", API + r"/settings", Handler.settings),
    ("GET", API + r"/auth-check", Handler.auth_check),
    ("GET", ANY + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Handler.resolve),
]


@contextmanager
def serving(hub: Hub, port: int = 0) -> Iterator[Hub]:
    """Serve a Hub on 127.0.0.1 in threads of this process; `hub.url` is its address."""
    handler = type("Bound", (Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        server.daemon_threads = True
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.resume.set()
            server.shutdown()


def client_environment(hub: Hub, home: Path, token: str = "hf_write") -> dict[str, str]:
    """What a process needs to take `hub` for the Hub; no token: an empty string."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_TOKEN": token,
        "SSL_CERT_DIR": str(home),  # no certificates: nothing here needs any, and they load slowly
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "0",
        "HF_DATASETS_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        "OMP_NUM_THREADS": "1",
    }


def main() -> None:
    """Serve until stopped; the first line on standard output is the address."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--faults", type=Path)
    parser.add_argument("--clear", action="store_true", help="begin with an empty state folder")
    asked = parser.parse_args()
    if asked.clear:
        shutil.rmtree(asked.state, ignore_errors=True)
    faults = json.loads(asked.faults.read_text()) if asked.faults else []
    with serving(Hub(asked.state, faults), asked.port) as hub:
        print(hub.url, flush=True)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
