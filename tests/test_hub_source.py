"""Facts about datasets on the Hub, read by the real clients from a small server of our own.

The Hub's address and its offline switch are read when the clients are imported, so that all reading
is done in one process of its own, with them in its environment.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import hub_process
import pytest
import warm

from userlm_synth.conversations.sources import open_source
from userlm_synth.errors import UserError
from userlm_synth.recipe import Conversations

SHA = "a" * 40
NEW = "b" * 40
CHATS = [
    {"id": f"c{n}", "messages": [{"role": "user", "content": f"hi {n}"}], "note": n}
    for n in range(25)
]


def parquet(values: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(values), out, row_group_size=10)
    return out.getvalue()


def jsonl_gz(values: list[dict[str, Any]]) -> bytes:
    return gzip.compress("".join(json.dumps(value) + "\n" for value in values).encode())


CONFIGS = b"""---
license: cc-by-4.0
configs:
- config_name: survey
  data_files: survey.jsonl.gz
- config_name: conversations
  data_files: conversations.jsonl.gz
---
"""
MIXED = [
    {"messages": [{"role": "user", "content": "plain"}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "in parts"}]}]},
]
SHAREGPT = [
    {"id": f"abcdefg_{n}", "conversations": [{"from": "human", "value": f"hi {n}"}]}
    for n in range(5)
]
REPOS: dict[str, dict[str, bytes]] = {
    "me/rows": {
        "README.md": b"---\nlicense: mit\n---\n",
        "data/train-00000-of-00002.parquet": parquet(CHATS[:15]),
        "data/train-00001-of-00002.parquet": parquet(CHATS[15:]),
    },
    "me/configs": {
        "README.md": CONFIGS,
        "survey.jsonl.gz": jsonl_gz([{"age": 3}]),
        "conversations.jsonl.gz": jsonl_gz(CHATS[:3]),
    },
    "me/mixed": {"train.jsonl": b"".join(json.dumps(row).encode() + b"\n" for row in MIXED)},
    "me/broken": {"data/train.parquet": parquet(CHATS)[:-900] + b"\0" * 900},
    "me/empty": {"README.md": b"nothing here\n"},
    "me/foreign": {"data/train.parquet": parquet([{"x": 1, "y": 2}])},
    "me/gated": {"data/train.parquet": parquet(CHATS)},
    "anon8231489123/ShareGPT_Vicuna_unfiltered": {
        "ShareGPT_V3_unfiltered_cleaned_split.json": json.dumps(SHAREGPT, indent=2).encode(),
        "other.json": b"[{}]",
    },
}


class Hub(BaseHTTPRequestHandler):
    """The reading side of the Hub, as far as the clients ask for it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body in two writes wait 40 ms for each other

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:  # its name in the standard library
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        code, headers, body = self.answer(self.path.split("?")[0].replace("%2F", "/"))
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_POST = do_GET

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        repo = next((one for one in REPOS if f"/datasets/{one}" in path), None)
        if repo is None:
            return 401, {"X-Error-Code": "RepoNotFound"}, b"{}"
        rest = path.partition(f"/datasets/{repo}")[2]
        allowed = self.headers.get("Authorization") == "Bearer hf_good"
        if repo == "me/gated" and not allowed and ("auth-check" in rest or "resolve" in rest):
            code = 403 if "Authorization" in self.headers else 401
            return code, {"X-Error-Code": "GatedRepo"}, b"{}"
        files = REPOS[repo]
        if f"/{NEW}" in rest:  # the newer revision has lost its last file
            files = dict(list(files.items())[:-1])
        if rest.startswith("/resolve/"):
            _, _, revision, name = rest.split("/", 3)
            if revision in (SHA, NEW) and name in files:
                return self.file(files[name], revision)
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": SHA}, b"{}"
        if rest.startswith(("/tree/", "/paths-info/")):
            entries = listing(files, "/".join(rest.split("/")[3:]), rest.startswith("/tree/"))
            return 200, {}, json.dumps(entries).encode()
        if rest.startswith("/revision/") and rest.split("/")[2] not in (SHA, NEW, "v2"):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        info = {
            "id": repo, "private": False,
            "sha": NEW if rest in ("/revision/v2", f"/revision/{NEW}") else SHA,
            "gated": "auto" if repo == "me/gated" else False, "tags": [], "downloads": 0,
            "likes": 0, "siblings": [{"rfilename": name} for name in files],
            "cardData": {"license": "mit"},
        }  # fmt: skip
        return 200, {}, b"{}" if rest == "/auth-check" else json.dumps(info).encode()

    def file(self, body: bytes, revision: str) -> tuple[int, dict[str, str], bytes]:
        headers = {"ETag": f'"{digest(body)}"', "X-Repo-Commit": revision, "Accept-Ranges": "bytes"}
        wanted = self.headers.get("Range")
        if not wanted:
            return 200, headers, body
        start, _, end = wanted.removeprefix("bytes=").partition("-")
        last = min(int(end or len(body)), len(body) - 1)
        headers["Content-Range"] = f"bytes {start}-{last}/{len(body)}"
        return 206, headers, body[int(start) : last + 1]


def digest(body: bytes) -> str:
    return hashlib.sha1(body).hexdigest()


def listing(files: dict[str, bytes], folder: str, children: bool) -> list[dict[str, Any]]:
    """The files and folders right below a folder; or all files."""
    prefix = f"{folder}/" if folder and children else ""
    found: dict[str, dict[str, Any]] = {}
    for name, body in files.items():
        inside = name.removeprefix(prefix)
        if not name.startswith(prefix):
            continue
        if children and "/" in inside:
            path = prefix + inside.split("/")[0]
            found[path] = {"type": "directory", "path": path, "oid": digest(path.encode())}
        else:
            found[name] = {"type": "file", "path": name, "size": len(body), "oid": digest(body)}
    return list(found.values())


HF = "hf://datasets/"
CASES: dict[str, dict[str, Any]] = {
    "rows": {"source": f"{HF}me/rows"},
    "later rows": {"source": f"{HF}me/rows", "start": 1},
    "revision": {"source": f"{HF}me/rows@v2"},
    "no revision": {"source": f"{HF}me/rows@v3"},
    "config": {"source": f"{HF}me/configs", "hub_config": "conversations"},
    "no config": {"source": f"{HF}me/configs"},
    "other config": {"source": f"{HF}me/configs", "hub_config": "talks"},
    "split": {"source": f"{HF}me/configs", "hub_config": "conversations", "hub_split": "test"},
    "mixed": {"source": f"{HF}me/mixed"},
    "sharegpt": {"source": "sharegpt"},
    "later sharegpt": {"source": "sharegpt", "start": 1},
    "gated": {"source": f"{HF}me/gated"},
    "gated for others": {"source": f"{HF}me/gated", "token": "hf_other"},
    "gated for us": {"source": f"{HF}me/gated", "token": "hf_good"},
    "gone": {"source": f"{HF}me/gone"},
    "empty": {"source": f"{HF}me/empty"},
    "broken": {"source": f"{HF}me/broken"},
    "foreign": {"source": f"{HF}me/foreign"},
}
READ = """
import json, os, sys
from userlm_synth.conversations.sources import Fault, drafts, hub, open_source, rows
from userlm_synth.errors import UserError
from userlm_synth.recipe import Conversations

hub.ROWS = 10

def read(start=0, token="", **options):
    os.environ["HF_TOKEN"] = token
    settings = Conversations(**options)
    found = []
    try:
        source = open_source(settings)
        found.append([source.describe(), source.identity()])
        for block in source.blocks(start):
            for number, row in rows(block):
                if isinstance(row, Fault):
                    found.append([block.number, block.file, number, row.reason])
                    continue
                for one in drafts(row, source.form(row), settings, block.file, number):
                    found.append([block.number, block.file, number, one])
    except UserError as error:
        found.append(str(error))
    return found

print(json.dumps({name: read(**case) for name, case in json.loads(sys.argv[1]).items()}))
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A server of its own for this module."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def read(cases: dict[str, dict[str, Any]], address: str, cache: Path) -> dict[str, list[Any]]:
    """For each case: description and identity, then (block, file, row, draft), or an error."""
    environment = {"HF_ENDPOINT": address, "HF_HOME": str(cache)}
    done = hub_process.start(READ, json.dumps(cases), torch=True, **environment).wait()
    assert done.returncode == 0, done.stderr
    found: dict[str, list[Any]] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def answers(address: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What each case gave."""
    return read(CASES, address, tmp_path_factory.mktemp("cache"))


Answers = dict[str, list[Any]]


def test_a_dataset_is_pinned_and_streamed_in_order_and_goes_on_from_a_block(
    answers: Answers,
) -> None:
    (card, identity), *found = answers["rows"]
    assert card == {
        "name": "me/rows", "where": "https://huggingface.co/datasets/me/rows", "revision": SHA,
        "license": "mit", "terms": None,
    }  # fmt: skip
    assert identity == ["me/rows", SHA, None, "train", None]
    assert [number for _, _, number, _ in found] == list(range(1, 26))
    assert [block for block, *_ in found] == [0] * 10 + [1] * 10 + [2] * 5
    assert {file for _, file, *_ in found} == {f"{HF}me/rows@{SHA}"}
    assert [one["id"] for *_, one in found] == [one["id"] for one in CHATS]
    assert found[3][3]["source"] == "me/rows"
    assert found[3][3]["metadata"] == {"note": 3}
    assert answers["later rows"][1:] == found[10:]


def test_a_revision_after_at_is_the_one_that_is_read(answers: Answers) -> None:
    (card, _), *found = answers["revision"]
    assert card["revision"] == NEW
    assert [number for _, _, number, _ in found] == list(range(1, 16))
    (said,) = answers["no revision"]
    assert said.startswith(f"{HF}me/rows: has no revision 'v3'; see https://")


def test_a_config_of_packed_jsonl_is_chosen_by_name(answers: Answers) -> None:
    assert [one["id"] for *_, one in answers["config"][1:]] == ["c0", "c1", "c2"]


@pytest.mark.parametrize(
    ("case", "there_is"),
    [("no config", "conversations"), ("other config", "conversations"), ("split", "train")],
)
def test_a_config_or_split_that_is_not_there_says_what_there_is(
    answers: Answers, case: str, there_is: str
) -> None:
    said = answers[case][-1]
    assert said.startswith(f"{HF}me/configs: ")
    assert f"'{there_is}'" in said
    assert said.endswith("see conversations.hub_config and conversations.hub_split")
    assert "\n" not in said


def test_contents_of_mixed_types_are_what_they_were(answers: Answers) -> None:
    _, *found = answers["mixed"]
    assert [one["messages"][0]["content"] for *_, one in found] == ["plain", "in parts"]
    assert found[1][3]["id"] == "mixed-0000002"


def test_the_named_sharegpt_is_its_one_file_read_piece_by_piece(answers: Answers) -> None:
    (card, _), *found = answers["sharegpt"]
    assert card["license"] == "unknown"
    assert card["name"] == "anon8231489123/ShareGPT_Vicuna_unfiltered"
    assert [one["messages"][0]["content"] for *_, one in found] == [f"hi {n}" for n in range(5)]
    assert {one["user_id"] for *_, one in found} == {"abcdefg"}
    assert len(answers["later sharegpt"]) == 1, "all of it was block 0"


@pytest.mark.parametrize("case", ["gated", "gated for others"])
def test_a_gated_dataset_says_where_to_accept_and_how_to_log_in(
    answers: Answers, case: str
) -> None:
    assert answers[case] == [
        f"{HF}me/gated: is gated; accept its terms at https://huggingface.co/datasets/me/gated, "
        "then set HF_TOKEN or run `hf auth login`"
    ]


def test_a_gated_dataset_is_read_with_a_token(answers: Answers) -> None:
    assert len(answers["gated for us"]) == 1 + 25


def test_a_dataset_that_is_not_there_or_private_is_one_line(answers: Answers) -> None:
    assert answers["gone"] == [
        f"{HF}me/gone: there is no such dataset, or it is private; check the name, and for a "
        "private one set HF_TOKEN or run `hf auth login`"
    ]


def test_a_repository_without_data_is_one_line(answers: Answers) -> None:
    said = answers["empty"][-1]
    assert "doesn't contain any data files" in said
    assert "cannot be reached" not in said


def test_a_broken_file_on_the_hub_is_one_line(answers: Answers) -> None:
    said = answers["broken"][-1]
    assert "arquet" in said
    assert "\n" not in said


def test_a_table_of_no_known_form_is_one_line_with_its_columns(answers: Answers) -> None:
    said = answers["foreign"][-1]
    assert said.startswith(f"{HF}me/foreign@{SHA}: no known form")
    assert "has the keys x, y; give conversations.format" in said
    assert "\n" not in said


def test_no_network_is_one_line(tmp_path: Path) -> None:
    ((said,),) = read({"": CASES["rows"]}, "http://127.0.0.1:9", tmp_path).values()
    assert said.startswith(f"{HF}me/rows: the Hub cannot be reached (")
    assert said.endswith("; run the same command again")
    assert "\n" not in said


def test_the_offline_switch_is_named() -> None:
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        open_source(Conversations(source="wildchat"))


@pytest.mark.parametrize(("former", "commit"), [("me/rows", NEW), ("me/other", SHA), ("", SHA)])
def test_an_interrupted_run_goes_on_at_its_commit_and_another_does_not(
    address: str, tmp_path: Path, former: str, commit: str
) -> None:
    out = tmp_path / "out"
    if former:  # what such a run leaves
        (out / ".work").mkdir(parents=True)
        (out / ".work" / "commit").write_text(f"{HF}{former} {NEW}")
    environment = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache")}
    shares = [f"conversations.{name}" for name in ("train=1", "validation=0", "test=0")]
    command = ["prepare", "--source", f"{HF}me/rows", "--out", str(out), *shares]
    done = hub_process.start(warm.PROGRAM, *command, torch=True, **environment).wait()
    assert done.returncode == 0, done.stderr
    card = json.loads((out / "card.json").read_text())
    assert card["source"]["revision"] == commit
    assert card["steps"][0]["in"] == (15 if commit == NEW else 25)
    assert not (out / ".work").exists()
