"""A push that meets faults of the Hub, or is killed: main is the old release or the new one."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hub_client import REPO, Pusher, release_folder, state_of
from hub_server import serving
from hub_state import Hub

from userlm_synth.hub import remote

COMMIT = "/commit/main$"
UPLOAD = "^/(bucket|part)/"


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("releases")
    return release_folder(folder / "first", 1), release_folder(folder / "second", 2)


@pytest.fixture(scope="module")
def held(releases: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a Hub remembers once the first release was pushed to it."""
    folder = tmp_path_factory.mktemp("held")
    with serving(Hub(folder / "hub")) as one:
        assert Pusher(one, folder / "home")(releases[0], tag="v1").code == 0
    (folder / "hub" / "log.jsonl").unlink()
    return folder / "hub"


@pytest.fixture
def hub(tmp_path: Path, held: Path) -> Iterator[Hub]:
    """A Hub that holds the first release."""
    with serving(Hub(shutil.copytree(held, tmp_path / "hub"))) as one:
        yield one


@pytest.fixture
def push(hub: Hub, tmp_path: Path) -> Pusher:
    return Pusher(hub, tmp_path / "home")


@pytest.mark.parametrize(
    "rule",
    [
        {"path": "whoami", "do": "status", "status": 503, "times": 2},
        {"path": "/refs$", "do": "lose"},
        {"path": "validate-yaml", "do": "status", "status": 502},
        {"path": "preupload", "do": "status", "status": 503},
        {"path": "objects/batch", "do": "lose"},
        {"path": UPLOAD, "method": "PUT", "do": "status", "status": 500},
        {"path": UPLOAD, "method": "PUT", "do": "lose"},
        {"path": UPLOAD, "method": "PUT", "do": "break"},
        {"path": UPLOAD, "method": "PUT", "do": "slow", "seconds": 0.5},
        {"path": "/verify", "do": "status", "status": 504},
        {"path": COMMIT, "do": "status", "status": 503},
        {"path": COMMIT, "do": "status", "status": 409},
        {"path": COMMIT, "do": "status", "status": 412},
        {"path": COMMIT, "do": "break"},
        {"path": COMMIT, "do": "lose"},
        {"path": "/tag/", "do": "status", "status": 503},
        {"path": "/tag/", "do": "lose"},
    ],
    ids=lambda rule: f"{rule['do']}-{rule.get('status', '')}-{rule['path'].strip('^/$')}",
)
def test_a_fault_that_passes_leaves_one_commit_and_one_tag(
    hub: Hub, push: Pusher, releases: tuple[Path, Path], rule: dict[str, Any]
) -> None:
    hub.faults.append(dict(rule))
    done = push(releases[1], tag="v2")
    assert done.code == 0, done.err
    assert hub.faults[0]["times"] == 0, "the fault was met"
    assert hub.states(REPO) == [{}, state_of(releases[0]), state_of(releases[1])]
    assert hub.repo(REPO)["tags"]["v2"] == hub.repo(REPO)["commits"][-1]["id"]
    assert done.plan["commit"] == hub.repo(REPO)["commits"][-1]["id"]
    again = 1 if rule["path"] == UPLOAD and rule["do"] == "lose" else 0  # done, and nobody knew
    assert len(push.uploads()) == 2 + again


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ({"path": COMMIT, "do": "status", "status": 503}, "answers 503 again and again"),
        ({"path": COMMIT, "do": "status", "status": 403}, "the token may not write here"),
        ({"path": "batch", "do": "status", "status": 413}, "quota or size limit is reached"),
        ({"path": "preupload", "do": "status", "status": 401}, "the Hub does not know this token"),
        ({"path": "/refs$", "do": "status", "status": 429}, "rate limit is reached; run the same"),
        ({"path": COMMIT, "do": "status", "status": 400, "error": "odd\nname"}, "400 (odd name)"),
        ({"path": "create", "do": "status", "status": 402}, "quota"),
        ({"path": "create", "do": "status", "status": 409}, "this name is taken; choose another"),
    ],
    ids=lambda one: str(one.get("status")) if isinstance(one, dict) else "",
)
def test_a_fault_that_stays_is_one_line_and_main_stays(
    hub: Hub, push: Pusher, releases: tuple[Path, Path], rule: dict[str, Any], line: str
) -> None:
    hub.faults.append({**rule, "times": 1000})
    error = push(releases[1], "me/next" if rule["path"] == "create" else REPO, tag="v2").error
    assert line in error
    assert hub.states(REPO) == [{}, state_of(releases[0])]
    hub.faults.clear()
    assert push(releases[1], tag="v2").code == 0
    assert hub.states(REPO)[2:] == [state_of(releases[1])]
    assert len(push.uploads()) == 2, "what was sent before the fault is not sent again"


def test_a_lost_commit_that_lands_late_is_not_made_twice(
    hub: Hub, push: Pusher, releases: tuple[Path, Path]
) -> None:
    """The commit of a former try lands just before ours, which is told 412."""

    def lands() -> None:
        paths = {name: releases[1] / name for name in state_of(releases[1])}
        tree = {name: hub.stored(name, path.read_bytes()) for name, path in paths.items()}
        hub.commit(hub.repo(REPO), tree, "of a former try")

    hub.faults.append({"path": COMMIT, "do": "call", "call": lands})
    done = push(releases[1], tag="v2")
    assert done.code == 0, done.err
    assert hub.states(REPO) == [{}, state_of(releases[0]), state_of(releases[1])]
    assert hub.repo(REPO)["tags"]["v2"] == hub.repo(REPO)["commits"][-1]["id"]


def test_somebody_elses_commit_meanwhile_is_compared_with_and_never_lost(
    hub: Hub, push: Pusher, releases: tuple[Path, Path]
) -> None:
    def by_hand() -> None:
        hub.put(REPO, {"LICENSE": b"by hand", "README.md": b"edited"})

    hub.faults.append({"path": COMMIT, "do": "call", "call": by_hand})
    done = push(releases[1])
    assert done.code == 0, done.err
    assert "main moved during the push; comparing again" in done.err
    states = hub.states(REPO)
    assert len(states) == 4
    assert {k: v for k, v in states[-1].items() if k != "LICENSE"} == state_of(releases[1])
    assert "LICENSE" in states[-1]


def test_a_folder_that_changes_during_the_push_is_refused_and_main_stays(
    hub: Hub, push: Pusher, releases: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    for what in ("edited", "added", "removed", "replaced"):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(releases[1], folder)

        def change(what: str = what) -> None:
            if what == "added":
                (folder / "data" / "train-9.parquet").write_bytes(b"more")
            elif what == "removed":
                (folder / "new.txt").unlink()
            elif what == "replaced":  # same size, another file
                data = (folder / "README.md").read_bytes()
                (folder / "README.md").unlink()
                (folder / "README.md").write_bytes(data.replace(b"2", b"3"))
            else:
                with (folder / "data" / "train-00001-of-00003.parquet").open("ab") as file:
                    file.write(b"x")

        hub.faults[:] = [{"path": "preupload", "do": "call", "call": change}]
        error = push(folder).error
        assert "during the push; nothing is published of it; make the folder again" in error, what
        assert hub.states(REPO) == [{}, state_of(releases[0])]


PHASES = [
    "whoami", "validate-yaml", f"api/datasets/{REPO}$", "/refs$", "/revision/main$", "/tree/",
    "preupload", "objects/batch", UPLOAD, "/verify", COMMIT, "/tag/",
]  # fmt: skip
IN_PARTS = [UPLOAD, "/complete/", "/verify", COMMIT]  # where parts make a difference


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("parts", [False, True], ids=["whole", "in parts"])
def test_killed_in_any_phase_main_is_old_or_new_and_the_next_push_finishes(
    tmp_path: Path, releases: tuple[Path, Path], parts: bool
) -> None:
    """kill -9 before and after the Hub does what is asked, in each phase of the same release."""
    old, new = state_of(releases[0]), state_of(releases[1])
    made: set[str] = set()
    phases = [(p, d) for p in (IN_PARTS if parts else PHASES) for d in ("pause", "pause_after")]
    for place, (path, do) in enumerate(phases):
        with serving(Hub(tmp_path / f"hub-{place}")) as hub:
            hub.put(REPO, {}, private=True)
            for name in sorted(old):
                hub.put(REPO, {name: (releases[0] / name).read_bytes()})
            start = len(hub.repo(REPO)["commits"])
            hub.chunk = 3000 if parts else 0
            push = Pusher(hub, tmp_path / "home")
            hub.faults.append({"path": path, "do": do, "skip": 1 if path == UPLOAD else 0})
            process = push.start(releases[1], tag="v2")
            while not hub.paused.wait(0.05) and process.returncode is None:
                pass
            assert process.returncode is None, f"{path} is a phase of a push"
            assert process.kill().returncode == -signal.SIGKILL
            hub.resume.set()
            hub.idle()  # what it was still doing for the dead is done
            main = hub.states(REPO)[start - 1 :]
            assert main in ([old], [old, new]), (path, do)
            made.add("new" if main[-1] == new else "old")
            again = push(releases[1], tag="v2")
            assert again.code == 0, again.err
            assert hub.states(REPO)[start - 1 :] == [old, new]
            assert hub.repo(REPO)["tags"] == {"v2": hub.repo(REPO)["commits"][-1]["id"]}
            whole = push.uploads() + [r["path"] for r in hub.requests("POST", "^/complete/")]
            assert len(whole) == len(set(whole)), f"sent twice after {do} at {path}"
    assert made == {"old", "new"}


@pytest.mark.slow
def test_killed_at_any_time_main_is_old_or_new(tmp_path: Path, releases: tuple[Path, Path]) -> None:
    """kill -9 after growing delays, again and again at one Hub, until a push gets through."""
    with serving(Hub(tmp_path / "hub")) as hub:
        push = Pusher(hub, tmp_path / "home")
        assert push(releases[0]).code == 0
        hub.faults.append({"path": "/", "do": "slow", "seconds": 0.03, "times": 10**6})
        delay, killed = 0.1, 0
        while True:
            process = push.start(releases[1], tag="v2")
            with suppress(TimeoutError):
                process.wait(delay)
            if process.returncode != -signal.SIGKILL:  # it got through, if only just
                break
            killed += 1
            delay += 0.08
            assert hub.states(REPO)[-1] in (state_of(releases[0]), state_of(releases[1]))
        assert process.returncode == 0
        assert killed >= 5
        assert hub.states(REPO) == [{}, state_of(releases[0]), state_of(releases[1])]
        assert hub.repo(REPO)["tags"]["v2"] == hub.repo(REPO)["commits"][-1]["id"]
        assert len(push.uploads()) == len(set(push.uploads())) == 5


def test_two_pushes_at_once_leave_whole_releases(
    hub: Hub, push: Pusher, releases: tuple[Path, Path], tmp_path: Path
) -> None:
    third = release_folder(tmp_path / "third", 3)
    processes = [push.start(folder) for folder in (releases[1], third)]
    for process in processes:
        assert process.wait().returncode == 0, process.stderr
    whole = [state_of(folder) for folder in (releases[0], releases[1], third)]
    states = hub.states(REPO)
    assert all(state in whole for state in states[1:])
    assert states[-1] in whole[1:]


def test_no_network_and_a_hub_that_is_not_there_are_one_line(
    push: Pusher, releases: tuple[Path, Path]
) -> None:
    offline = push(releases[1], environment={"HF_HUB_OFFLINE": "1"}).error
    assert "HF_HUB_OFFLINE forbids the network; unset it" in offline
    nobody = push(releases[1], environment={"HF_ENDPOINT": "http://127.0.0.1:9"}).error
    assert "the Hub at http://127.0.0.1:9 cannot be reached" in nobody


def test_a_files_upload_through_xet_makes_the_same_commit(
    hub: Hub, push: Pusher, releases: tuple[Path, Path], tmp_path: Path
) -> None:
    pytest.importorskip("hf_xet", reason="the Xet client is not installed")
    hub.xet = tmp_path / "xet"
    hub.xet.mkdir()
    done = push(releases[1], tag="v2", environment={"HF_HUB_DISABLE_XET": "0"})
    assert done.code == 0, done.err
    assert hub.states(REPO) == [{}, state_of(releases[0]), state_of(releases[1])]
    assert push.uploads() == [], "nothing went through LFS"
    assert any(path.is_file() for path in hub.xet.rglob("*"))


def test_errors_that_pass_are_told_from_those_that_stay() -> None:
    class TransportError(Exception):
        __module__ = "httpx2"

    wrapped = RuntimeError("Error while uploading")
    wrapped.__cause__ = TransportError("cut off")
    assert remote.is_network(wrapped)
    assert remote.passes(wrapped)
    assert not remote.passes(ValueError("bad"))
    assert not remote.passes(remote.UserError("bad"))
    assert remote.status_of(wrapped) is None
    assert os.linesep not in str(remote.explain(wrapped, "me/x", "pushing"))
