"""A push by the real client to a Hub of our own: what lands, and what is refused in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hub_process
import pytest
from hub_client import FRONT, REPO, Pusher, release_folder, state_of, summed
from hub_server import client_environment, serving
from hub_state import Hub

from userlm_synth.hub import release
from userlm_synth.hub.remote import Entry
from userlm_synth.hub.sums import read_folder, read_sums


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with serving(Hub(tmp_path / "hub")) as one:
        yield one


@pytest.fixture
def push(hub: Hub, tmp_path: Path) -> Pusher:
    return Pusher(hub, tmp_path / "home")


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return release_folder(tmp_path / "first", 1)


@pytest.fixture
def second(tmp_path: Path) -> Path:
    return release_folder(tmp_path / "second", 2)


def test_a_first_push_makes_a_private_repository_with_one_commit_and_its_tag(
    hub: Hub, push: Pusher, first: Path
) -> None:
    done = push(first, tag="v1")
    assert done.code == 0, done.err
    repo = hub.repo(REPO)
    assert repo["private"] is True
    assert hub.states(REPO) == [{}, state_of(first)]
    assert repo["tags"] == {"v1": repo["commits"][-1]["id"]} == {"v1": done.plan["commit"]}
    assert done.plan["new"] is True
    assert "dataset me/talks, private, new" in done.text
    assert done.plan["url"] == f"{hub.url}/datasets/{REPO}"


def test_the_next_release_is_one_commit_and_sends_only_what_differs(
    hub: Hub, push: Pusher, first: Path, second: Path
) -> None:
    assert push(first).code == 0
    done = push(second, tag="v2")
    assert hub.states(REPO) == [{}, state_of(first), state_of(second)]
    assert "data/train-00000-of-00003.parquet" not in done.sent
    assert done.plan["delete"] == ["old.txt"]
    assert "deleted: old.txt" in done.text
    uploads = push.uploads()
    assert len(uploads) == len(set(uploads)) == 3 + 2


def test_a_push_again_sends_nothing_and_commits_nothing(
    hub: Hub, push: Pusher, first: Path
) -> None:
    push(first, tag="v1")
    again = push(first, tag="v1")
    assert again.code == 0, again.err
    assert again.sent == []
    assert len(hub.states(REPO)) == 2
    assert len(push.uploads()) == 3
    tagged = push(first, tag="v1.0.1")
    assert hub.repo(REPO)["tags"]["v1.0.1"] == tagged.plan["commit"] == again.plan["commit"]


def test_a_tag_of_another_release_is_refused_and_main_stays(
    hub: Hub, push: Pusher, first: Path, second: Path
) -> None:
    push(first, tag="v1")
    assert (
        "tag v1 exists and names another release; choose a new tag" in push(second, tag="v1").error
    )
    assert hub.states(REPO) == [{}, state_of(first)]
    assert len(push.uploads()) == 3, "refused before anything is sent"


def test_public_is_public_and_a_visibility_that_was_not_asked_for_is_refused(
    hub: Hub, push: Pusher, first: Path, second: Path
) -> None:
    assert push(first, public=True).code == 0
    assert hub.repo(REPO)["private"] is False
    error = push(second).error
    assert "is public, but a private push was asked for; push with --public, or change" in error
    push(first, "me/closed")
    error = push(second, "me/closed", public=True).error
    assert "is private, but --public was asked for; leave out --public" in error
    assert hub.states(REPO) == hub.states("me/closed") == [{}, state_of(first)]


def test_files_of_somebody_else_are_never_overwritten_or_deleted(
    hub: Hub, push: Pusher, first: Path, second: Path
) -> None:
    hub.put(REPO, {"README.md": b"mine", "notes.txt": b"mine"}, private=True)
    error = push(first).error
    assert "holds files that no release of ours made (README.md, notes.txt)" in error
    push(first, "me/ours")
    hub.put("me/ours", {"LICENSE": b"by hand"})
    done = push(second, "me/ours")
    assert "LICENSE" in hub.states("me/ours")[-1]
    assert done.plan["kept"] == ["LICENSE"]
    hub.put("me/ours", {"data/train-9.parquet": b"rows that would be loaded too"})
    assert "no release of ours made (data/train-9.parquet)" in push(first, "me/ours").error


@pytest.mark.parametrize(
    ("token", "line"),
    [
        ("", "pushing needs a token of the Hub; set HF_TOKEN, or run `hf auth login`"),
        ("hf_read", "the token of me may only read; make one with write permission on"),
        ("hf_fine_read", "the token may not write here; make a token with write permission on"),
        ("hf_other", "the token may not write here"),
        ("hf_nobody", "the Hub does not know this token"),
    ],
)
def test_a_token_that_cannot_write_is_one_line(
    hub: Hub, push: Pusher, first: Path, token: str, line: str
) -> None:
    error = push(first, token=token).error
    assert line in error
    assert not token or token not in error, "a token is never shown"
    assert not list((hub.state / "repos").iterdir())


def test_a_name_without_a_namespace_is_the_tokens_own(hub: Hub, push: Pusher, first: Path) -> None:
    assert push(first, "talks").plan["repo"] == "me/talks"
    assert hub.states("me/talks")[-1] == state_of(first)


def test_a_private_repository_of_others_counts_as_taken(
    hub: Hub, push: Pusher, first: Path
) -> None:
    hub.put("other/talks", {"a.txt": b"a"}, private=True)
    assert "the token may not write here" in push(first, "other/talks").error


@pytest.mark.parametrize("name", ["me/a/b", "me/..", "me/a b", "-x", "me/x.git"])
def test_what_can_be_no_name_is_refused_without_the_network(first: Path, name: str) -> None:
    with pytest.raises(release.UserError, match="is no repository name"):
        release.publish(first, name, kind="dataset", public=False, tag=None, dry_run=True)


@pytest.mark.parametrize("tag", ["", "a b", "../x", "main", "-v", "a..b", "v1~"])
def test_what_can_be_no_tag_is_refused(first: Path, tag: str) -> None:
    with pytest.raises(release.UserError, match="is no name for a tag"):
        release.publish(first, REPO, kind="dataset", public=False, tag=tag, dry_run=True)


def test_a_dry_run_says_what_would_be_sent_and_changes_nothing(
    hub: Hub, push: Pusher, first: Path, second: Path
) -> None:
    plan = push(first, dry_run=True, tag="v1")
    assert "would send 7 of 7 files" in plan.text
    assert "tag: v1" in plan.text
    assert not list((hub.state / "repos").iterdir())
    push(first)
    plan = push(second, dry_run=True)
    assert plan.plan["compared"] is True
    assert "data/train-00001-of-00003.parquet" in plan.sent
    assert "data/train-00000-of-00003.parquet" not in plan.sent
    assert "would delete: old.txt" in plan.text
    assert hub.states(REPO) == [{}, state_of(first)]
    assert {row["method"] for row in hub.requests()[-5:]} <= {"GET", "HEAD"}
    error = push(second, dry_run=True, public=True).error
    assert "is private, but --public was asked for" in error


def test_a_dry_run_without_a_token_asks_nobody(hub: Hub, push: Pusher, first: Path) -> None:
    plan = push(first, dry_run=True, token="")
    assert plan.plan["compared"] is False
    assert "no token: not compared with what is on the Hub" in plan.text
    assert len(plan.sent) == 7
    assert hub.requests() == []


def test_a_dry_run_needs_no_name(first: Path) -> None:
    said = release.plan_text(first, None, kind="dataset", public=True, tag="v1")
    assert said.startswith("dataset (no name given), public\nno repository named: not compared")
    assert "would send 7 of 7 files" in said


def test_a_model_goes_the_same_way(hub: Hub, push: Pusher, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "README.md").write_text(FRONT)
    (folder / "model.safetensors").write_bytes(b"w" * 5000)
    done = push(summed(folder), "me/user-lm", kind="model", tag="v1")
    assert done.code == 0, done.err
    assert done.plan["url"] == f"{hub.url}/me/user-lm"
    assert set(hub.states("me/user-lm", "models")[-1]) == {
        "README.md", "model.safetensors", "SHA256SUMS",
    }  # fmt: skip


def test_a_card_that_the_hub_refuses_stops_the_push_before_anything_is_sent(
    hub: Hub, push: Pusher, first: Path
) -> None:
    (first / "README.md").write_text("---\nlicense: []\n---\n# Talks\n")
    error = push(summed(first)).error
    assert "README.md: the Hub refuses this card" in error
    assert '"license" must be a string' in error
    assert push.uploads() == []


@pytest.mark.parametrize("what", ["edited", "added", "missing", "no sums", "no folder"])
def test_a_folder_that_is_not_what_its_checksums_say_is_refused(first: Path, what: str) -> None:
    if what == "edited":
        (first / "README.md").write_text(f"{FRONT}version 9\n")
    elif what == "added":
        (first / ".DS_Store").write_text("x")
    elif what == "missing":
        (first / "old.txt").unlink()
    elif what == "no sums":
        (first / "SHA256SUMS").unlink()
    folder = first / "nowhere" if what == "no folder" else first
    line = {
        "edited": "README.md is not what SHA256SUMS says",
        "added": ".DS_Store is not in SHA256SUMS",
        "missing": "old.txt is missing",
    }.get(what, "no release folder")
    with pytest.raises(release.UserError, match=line):
        release.publish(folder, REPO, kind="dataset", public=False, tag=None, dry_run=True)


def test_sums_are_read_as_sha256sum_writes_them() -> None:
    digest = "ab" * 32
    assert read_sums(f"{digest}  a b.txt\n{digest} *c\n") == {"a b.txt": digest, "c": digest}
    assert read_sums("hello world\n") == {}
    assert read_sums("") == {}


def test_a_comparison_sees_equal_content_in_lfs_and_in_git(first: Path) -> None:
    files = read_folder(first)
    assert release.compare(files, {}, set()) == release.Changes(list(files))
    shard = next(name for name in files if name.endswith(".parquet"))
    lfs = Entry(files[shard].size, "0" * 40, files[shard].sha256)
    same_size = Entry(files["README.md"].size, "0" * 40, None)
    left = release.compare(files, {shard: lfs, "README.md": same_size, "x": lfs}, {"x", "y"})
    assert shard not in left.send
    assert "README.md" in left.send, "equal sizes are no equal content"
    assert left.delete == ["x"]


def test_the_state_of_the_hub_outlives_its_process(hub: Hub, push: Pusher, first: Path) -> None:
    push(first)
    with serving(Hub(hub.state)) as later:
        assert later.states(REPO) == [{}, state_of(first)]
        assert Pusher(later, push.home)(first).sent == []
    assert json.loads((hub.state / "log.jsonl").read_text().splitlines()[0])["method"] == "GET"


SETTINGS = """
import importlib, inspect, json, sys
for one in sys.argv[1:]:
    importlib.import_module(one)
def plain(values):
    return {name: sorted(one) if isinstance(one, frozenset) else one
            for name, one in values.items()
            if isinstance(one, (str, int, float, frozenset)) and not name.startswith("_")}
found = {}
for name, module in sorted(sys.modules.items()):
    if name.split(".")[0] == "huggingface_hub":
        found[name] = plain(vars(module))
        for key, one in vars(module).items():
            if inspect.isfunction(one):
                one = inspect.unwrap(one)
                given = [*(one.__defaults__ or ()), *(one.__kwdefaults__ or {}).values()]
                found[f"{name}.{key}"] = plain({str(at): it for at, it in enumerate(given)})
            elif type(one).__module__.startswith("huggingface_hub") or inspect.isclass(one):
                found[f"{name}.{key}"] = plain(getattr(one, "__dict__", {}))
print(json.dumps(found, sort_keys=True))
"""


def test_a_forked_client_has_the_settings_that_an_import_would_give_it(tmp_path: Path) -> None:
    hub = Hub(tmp_path / "hub")
    hub.url = "http://127.0.0.1:9"
    own = {**client_environment(hub, tmp_path / "home"), "HF_HUB_DOWNLOAD_TIMEOUT": "77"}
    modules = [one for one in hub_process.IMPORTED if one.startswith("huggingface_hub")]
    modules.append("huggingface_hub.hf_file_system")  # the server of `warm` has it
    others = {name: one for name, one in os.environ.items() if not name.startswith("HF_")}
    command = [sys.executable, "-c", SETTINGS, *modules]
    fresh = subprocess.run(command, env=others | own, capture_output=True, text=True, check=True)
    wanted = json.loads(fresh.stdout)
    assert fresh.stdout.count(hub.url) >= 4
    for torch in (False, True):
        forked = hub_process.start(SETTINGS, *modules, torch=torch, **own).wait()
        found = json.loads(forked.stdout)
        assert {name: found[name] for name in wanted} == wanted
