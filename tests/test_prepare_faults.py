"""Facts about preparing chats when things go wrong: a kill, a full disk, input that is broken."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import Outcome

from toys import conversation
from userlm_synth.conversations import prepare, workers
from userlm_synth.conversations.shards import Shard
from userlm_synth.conversations.sources import files
from userlm_synth.errors import UserError
from userlm_synth.locks import locked
from userlm_synth.recipe import Clean, Conversations
from userlm_synth.records import Record

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import wildchat_shaped

Cli = Callable[..., Outcome]
Write = Callable[..., Path]
ALL: dict[str, Any] = {"train": 1.0, "validation": 0.0, "test": 0.0}
ONE = [f"conversations.{name}={share}" for name, share in ALL.items()]
ADVICE = "or count what is faulty and go on: conversations.on_error=reject (--on-error reject)"


def contents(out: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    found = sorted(path for path in out.rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in found}


def visible(out: Path) -> list[str]:
    return [path.name for path in out.iterdir() if path.name[0] != "."] if out.is_dir() else []


def lines(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def chats(count: int, start: int = 0) -> list[Record]:
    """Short conversations of as many users, no two alike."""
    words = random.Random(3).sample([f"{a}{b}" for a in "bdgklmnprst" for b in "aeiou"], 50)
    return [
        {
            **conversation(f"tell me of {words[n % 50]} and {words[n // 50]}", "so", number=n),
            "user_id": f"u{n}",
        }
        for n in range(start, start + count)
    ]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four files; 800 conversations, templates among them, and a bad line."""
    folder = tmp_path_factory.mktemp("corpus") / "logs"
    folder.mkdir()
    rows = [json.dumps(row) for row in wildchat_shaped.rows(800, seed=2)]
    rows[300] = "this is no JSON"
    for number in range(4):
        some = "\n".join(rows[200 * number : 200 * number + 200]) + "\n"
        (folder / f"{number}.jsonl").write_text(some)
    return folder


EVERYTHING: dict[str, Any] = {"keep_dropped": True, "on_error": "reject"}
FLAGS = ["--keep-dropped", "--on-error", "reject"]


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an uninterrupted run leaves."""
    out = tmp_path_factory.mktemp("whole") / "out"
    prepare(Conversations(source=str(corpus), **EVERYTHING), out, 0)
    found = contents(out)
    assert len(found) == 8
    assert ".work" not in "".join(found)
    return found


# ---- killed ----------------------------------------------------------------------------------

# Runs the command again and again in children of one warm process, killed at the n-th thing that
# it does to a file in OUT, again at another thing, then once to its end; prints what is different.
DRIVER = textwrap.dedent("""
    import contextlib, io, json, os, shutil, signal, sys
    from pathlib import Path

    from userlm_synth.cli import main

    out, first, step, command = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    WATCHED = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}

    def run(last):
        child = os.fork()
        if not child:
            seen = 0

            def watch(event, details):
                nonlocal seen
                reads = event == "open" and details[1] in (None, "r", "rb")
                in_folder = event in ("os.remove", "os.rmdir") and details[1] != -1  # of a tree
                here = in_folder or str(out) in str(details[0])
                if event in WATCHED and not reads and here:
                    seen += 1
                    if seen == last:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(watch)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(1, 2)
            try:
                main(command, standalone_mode=False)
            finally:
                os._exit(0)
        return os.waitpid(child, 0)[1]

    def contents():
        files = [path for path in out.rglob("*") if path.is_file()]
        return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}

    with contextlib.redirect_stdout(io.StringIO()):
        main(command, standalone_mode=False)  # here: what it imports and compiles is inherited
    whole, last, states = contents(), first, set()
    while True:
        shutil.rmtree(out)
        if run(last) == 0:  # there were not so many things to do
            break
        left = contents() if out.exists() else {}
        half = [name for name in left if name[0] != "." and left[name] != whole[name]]
        if half:
            print(last, "half written:", half)
        states.add((any(".work" in name for name in left), "train.jsonl" in left))
        run(7 * last % 40 + 1)
        assert run(None) == 0
        now = contents()
        if now != whole:
            print(last, sorted(name for name in {*now, *whole} if now.get(name) != whole.get(name)))
        last += step
    print("killed", (last - first) // step, "times, in", len(states), "states")
""")


def killed_at(corpus: Path, out: Path, first: int, step: int) -> str:
    """What the driver says, after it compared with an uninterrupted run."""
    command = ["prepare", "--source", corpus, "--out", out, *FLAGS, "conversations.workers=1"]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, out, str(first), str(step), *command],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_killed_at_some_moments_a_later_run_ends_with_the_same_bytes(
    corpus: Path, tmp_path: Path
) -> None:
    said = killed_at(corpus, tmp_path / "out", 5, 14)
    assert said.startswith("killed "), said
    assert int(said.split()[1]) >= 3
    assert said.endswith("in 2 states\n"), f"{said}: while reading, and while writing"


@pytest.mark.slow
def test_killed_at_any_moment_a_later_run_ends_with_the_same_bytes(
    tmp_path: Path, write_jsonl: Write
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    template = "write me a long and sad story of the sea and of a king called {}"
    for number in range(3):
        more = [conversation(template.format(f"k{n}"), number=n) for n in range(900, 912)]
        more += [conversation(" ", number=number), "no chat"]
        write_jsonl(folder / f"{number}.jsonl", [*chats(30, 30 * number + 3), *more])
    said = killed_at(folder, tmp_path / "out", 1, 1)
    assert said.startswith("killed "), said
    assert said.endswith("in 4 states\n")


def replicated(folder: Path, rows: int, files: int) -> Path:
    """So many files of the same rows under other ids."""
    data = b"".join(json.dumps(row).encode() + b"\n" for row in wildchat_shaped.rows(rows, seed=3))
    folder.mkdir()
    for number in range(files):
        marked = data.replace(b'"conversation_hash": "', b'"conversation_hash": "%d-' % number)
        (folder / f"{number:03d}.jsonl").write_bytes(marked)
    assert sum(path.stat().st_size for path in folder.iterdir()) > workers.SMALL
    return folder


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Just more than is read in one process."""
    return replicated(tmp_path_factory.mktemp("large") / "logs", 900, 7)


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seconds of reading, so that a signal comes in the midst of it."""
    return replicated(tmp_path_factory.mktemp("endless") / "logs", 600, 80)


@contextmanager
def started(source: Path, out: Path) -> Iterator[subprocess.Popen[str]]:
    """The command with two processes beside it, in a group of its own."""
    command = [sys.executable, "-m", "userlm_synth", "prepare", "--source", source, "--out", out]
    process = subprocess.Popen(
        [*map(str, command), "conversations.workers=2", "--keep-dropped"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        # what is started in the background may have been told to take no notice of Ctrl-C
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def until(process: subprocess.Popen[str], condition: Callable[[], object]) -> None:
    """Wait for something that happens while the process is at work."""
    for _ in range(3000):
        if condition():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise AssertionError("it never came to that")


def test_worker_processes_die_with_a_killed_parent_and_what_they_made_is_not_lost(
    large: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with started(large, out) as process:
        until(process, lambda: (out / ".work" / "000001.json").exists())
        process.kill()
        ended = threading.Thread(target=process.communicate)  # until nobody holds the pipes
        ended.start()
        ended.join(5)
        assert not ended.is_alive(), "a process outlived its parent"
    whole = {path.stem for path in (out / ".work").glob("*.json")}
    settings = Conversations(source=str(large), keep_dropped=True, workers=1)
    with pytest.MonkeyPatch.context() as patch:
        made = made_anew(patch)
        prepare(settings, out, 0)
    assert sorted({*made, *whole}) == [f"{number:06d}" for number in range(7)]
    assert not whole & set(made)
    prepare(settings, tmp_path / "other", 0)
    assert contents(out) == contents(tmp_path / "other")


@pytest.mark.parametrize(("mark", "delay"), [("key", 0.1), ("key", 0.3), ("000000.json", 0)])
def test_ctrl_c_is_one_line_and_status_130(
    endless: Path, tmp_path: Path, mark: str, delay: float
) -> None:
    """To the whole group, as a terminal does it; while the processes start, and at work."""
    out = tmp_path / "out"
    with started(endless, out) as process:
        until(process, (out / ".work" / mark).exists)
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert said.endswith("\ninterrupted; run the same command again to continue\n")
    assert visible(out) == []


def test_a_worker_that_is_killed_is_one_line(endless: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with started(endless, out) as process:
        until(process, (out / ".work" / "000000.json").exists)
        os.kill(workers_of(process)[0], signal.SIGKILL)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 1, said
    assert said == (
        "error: a worker process died (out of memory?); run the same command again to continue, "
        "with fewer at once: conversations.workers=1\n"
    )
    assert visible(out) == []


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """The processes that work for it."""
    command = ["ps", "-A", "-ww", "-o", "pid=,ppid=,args="]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    split = [line.split(None, 2) for line in found.splitlines() if "spawn_main" in line]
    return [int(pid) for pid, parent, _ in split if int(parent) == process.pid]


# ---- continued, or begun afresh --------------------------------------------------------------


@pytest.fixture
def halfway(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where a run stopped after all shards but one were made."""
    stop_at(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        prepare(Conversations(source=str(corpus), **EVERYTHING), tmp_path / "out", 0)
    monkeypatch.undo()
    assert len(list((tmp_path / "out" / ".work").glob("*.json"))) == 3
    return tmp_path / "out"


def stop_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Ctrl-C as the shard of that number is written."""
    write = Shard.write

    def stopping(shard: Shard, *given: Any) -> None:
        if shard.lines.name == f"{number:06d}.jsonl":
            raise KeyboardInterrupt
        write(shard, *given)

    monkeypatch.setattr(Shard, "write", stopping)


def made_anew(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shards that are written from here on."""
    write, names = Shard.write, []

    def noted(shard: Shard, *given: Any) -> None:
        names.append(shard.lines.stem)
        write(shard, *given)

    monkeypatch.setattr(Shard, "write", noted)
    return names


def test_a_run_goes_on_where_it_was(
    corpus: Path, halfway: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = made_anew(monkeypatch)
    prepare(Conversations(source=str(corpus), workers=1, **EVERYTHING), halfway, 0)
    assert made == ["000003"]
    assert contents(halfway) == whole


def test_interrupted_as_it_clears_up_it_ends_with_the_same_bytes(
    corpus: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(folder: Path, **_: object) -> None:
        for path in folder.glob("*.dropped"):
            path.unlink()
            monkeypatch.undo()
        if folder.exists():
            raise KeyboardInterrupt

    settings = Conversations(source=str(corpus), **EVERYTHING)
    monkeypatch.setattr(shutil, "rmtree", half)
    with pytest.raises(KeyboardInterrupt):
        prepare(settings, tmp_path, 0)
    assert (tmp_path / ".work" / "000000.json").exists()
    prepare(settings, tmp_path, 0)
    assert contents(tmp_path) == whole


def test_a_shard_that_is_not_whole_is_made_again(
    corpus: Path, halfway: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    work = halfway / ".work"
    (work / "000000.json").write_bytes((work / "000000.json").read_bytes()[:50])
    (work / "000002.jsonl").write_bytes((work / "000002.jsonl").read_bytes()[:-1])
    made = made_anew(monkeypatch)
    prepare(Conversations(source=str(corpus), **EVERYTHING), halfway, 0)
    assert made == ["000000", "000002", "000003"]
    assert contents(halfway) == whole


@pytest.mark.parametrize(
    ("options", "seed"),
    [
        ({"clean": Clean(min_characters=30)}, 0),
        ({"clean": Clean(exclude_ids="ids.txt")}, 0),
        ({"redact": True}, 0),
        ({"split_by": "conversation"}, 0),
        ({"limit": 650}, 0),
        ({"dedup": None}, 0),
        ({"keep_dropped": False}, 0),
        ({}, 1),
    ],
)
def test_another_setting_begins_afresh(
    corpus: Path, halfway: Path, options: dict[str, Any], seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(halfway.parent)
    rows = [json.loads(line) for line in (corpus / "0.jsonl").read_bytes().splitlines()]
    Path("ids.txt").write_text("\n".join(row["conversation_hash"] for row in rows[:100]))
    settings = Conversations(**{"source": str(corpus), **EVERYTHING, **options})
    prepare(settings, halfway, seed)
    prepare(settings, halfway.parent / "other", seed)
    assert contents(halfway) == contents(halfway.parent / "other")


def rewritten(folder: Path) -> None:
    path = folder / "logs" / "a.jsonl"
    path.write_text(path.read_text().replace('"toy-1', '"cat-1'))


CHANGES: dict[str, tuple[Callable[[Path], object], Callable[[str], str]]] = {
    "listed ids": (
        lambda folder: (folder / "ids.txt").write_text("toy-5\ntoy-7\n"),
        lambda name: "" if name in ("toy-5", "toy-7") else name,
    ),
    "a file of the same size": (rewritten, lambda name: name.replace("toy-1", "cat-1")),
    "the name of a file": (
        lambda folder: (folder / "logs" / "a.jsonl").rename(folder / "logs" / "c.jsonl"),
        lambda name: name,
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_where_what_is_read_has_changed_a_run_begins_afresh(
    tmp_path: Path, write_jsonl: Write, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    (tmp_path / "logs").mkdir()
    write_jsonl(tmp_path / "logs" / "a.jsonl", chats(20))
    write_jsonl(tmp_path / "logs" / "b.jsonl", chats(2, 20))
    (tmp_path / "ids.txt").write_text("toy-500\n")
    clean = Clean(exclude_ids=str(tmp_path / "ids.txt"))
    settings = Conversations(source=str(tmp_path / "logs"), clean=clean, **ALL)
    stop_at(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        prepare(settings, tmp_path / "out", 0)
    monkeypatch.undo()
    make, now = CHANGES[change]
    make(tmp_path)
    prepare(settings, tmp_path / "out", 0)
    found = {one["id"] for one in lines(tmp_path / "out" / "train.jsonl")}
    assert found == {now(f"toy-{number}") for number in range(22)} - {""}


def test_processes_and_the_choice_about_faults_do_not_begin_afresh(
    corpus: Path, halfway: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = made_anew(monkeypatch)
    settings = {**EVERYTHING, "on_error": "stop", "license": "cc0-1.0", "workers": 1}
    with pytest.raises(UserError, match=r"1\.jsonl:101: not JSON"):
        prepare(Conversations(source=str(corpus), **settings), halfway, 0)
    assert made == ["000003"]


def test_two_at_once_in_one_folder_is_one_line(cli: Cli, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with locked(out, "nobody else"):
        done = cli("prepare", "--source", corpus, "--out", out)
    assert done.error == f"error: {out}: another run is at work in this folder; wait for it"
    assert contents(out) == {}


# ---- a full disk -----------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "processes"), [(0.3, 1), (0.3, 2), (1.3, 1), (1.99, 1)])
def test_on_a_full_disk_one_line_and_with_more_room_the_same_bytes(
    cli: Cli, corpus: Path, whole: dict[str, bytes], small_disk: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch, share: float, processes: int,
) -> None:  # fmt: skip
    """While shards are written, in this process or in others, and while the splits are.

    `share`: room for that much of the shards; from 1 on for all of them and some of the rest.
    """
    out = small_disk("20m") / "out"
    command = ["prepare", "--source", corpus, "--out", out, *FLAGS]
    command.append(f"conversations.workers={processes}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[prepare.__module__], "write_out", interrupted)
        assert cli(*command).code == 130
    used = sum(-(-path.stat().st_size // 4096) for path in (out / ".work").iterdir())
    visible_ = sum(-(-len(data) // 4096) for data in whole.values())
    shutil.rmtree(out)
    monkeypatch.setattr(workers, "SMALL", 0)
    room = used * min(share, 1) + visible_ * max(share - 1, 0) + 2
    small_disk(f"{4 * round(room)}k")
    done = cli(*command)
    assert "the disk is full; free some space and run the same command again" in done.error
    assert visible(out) == [] or share > 1.5
    assert not [name for name in contents(out) if name.endswith(".part") and "/" not in name]
    small_disk("20m")
    assert cli(*command).code == 0
    assert contents(out) == whole


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


# ---- bad input -------------------------------------------------------------------------------


def refused(cli: Cli, source: Path | str, out: Path, *more: str) -> str:
    """The one line, without the advice in it; nothing is there to be seen."""
    done = cli("prepare", "--source", source, "--out", out, *more, *ONE)
    assert done.error.endswith(f"; {ADVICE}")
    assert visible(out) == []
    return done.error.removeprefix("error: ").removesuffix(f"; {ADVICE}")


def counted(cli: Cli, source: Path, out: Path, *more: str) -> tuple[dict[str, int], list[str]]:
    """With --on-error reject: what each step dropped, and the faults that are listed."""
    command = ["prepare", "--source", source, "--out", out, "--on-error", "reject", *more, *ONE]
    done = cli(*command)
    assert done.code == 0, done.err
    card = json.loads((out / "card.json").read_bytes())
    dropped = {reason: n for step in card["steps"] for reason, n in step["dropped"].items()}
    path = out / "rejected.jsonl"
    return dropped, [one["fault"] for one in lines(path)] if path.exists() else []


def test_a_truncated_gz_is_one_line_or_gives_its_whole_lines(cli: Cli, tmp_path: Path) -> None:
    rng = random.Random(1)
    rows = [{**one, "metadata": {"noise": rng.randbytes(500).hex()}} for one in chats(1000)]
    data = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
    path = tmp_path / "chats.jsonl.gz"
    path.write_bytes(data[: len(data) // 2])
    said = refused(cli, path, tmp_path / "out")
    assert said.startswith(f"{path}:")
    assert "the gzip file is broken from here on" in said
    assert said.endswith("get a whole copy of it")
    dropped, faults = counted(cli, path, tmp_path / "out")
    assert list(dropped.values()) == [1]
    assert faults == [said]
    kept = lines(tmp_path / "out" / "train.jsonl")
    assert 450 < len(kept) < 550
    assert kept == rows[: len(kept)]
    assert said.startswith(f"{path}:{len(kept)}: ")


def test_a_parquet_with_other_columns_is_one_line_or_is_passed_over(
    cli: Cli, tmp_path: Path, write_jsonl: Write
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "logs"
    folder.mkdir()
    pq.write_table(pa.table({"question": ["a"] * 50, "answer": ["b"] * 50}), folder / "a.parquet")
    write_jsonl(folder / "b.jsonl", chats(3))
    said = refused(cli, folder, tmp_path / "out")
    assert said.startswith(f"{folder / 'a.parquet'}: no known form of conversations has the keys")
    dropped, faults = counted(cli, folder, tmp_path / "out")
    assert (list(dropped.values()), faults) == ([1], [said])
    assert len(lines(tmp_path / "out" / "train.jsonl")) == 3


def test_of_good_and_bad_lines_each_bad_one_is_a_line_and_the_good_ones_stay(
    cli: Cli, tmp_path: Path
) -> None:
    good = [json.dumps(one).encode() for one in chats(6)]
    bad = [
        b'{"id": "x", "messages": [', b"[]", b'{"messages": "hi"}', b'{"text": "hi"}',
        b'{"messages": [{"role": "user", "content": "\xff"}]}', b'{"messages": [{"role": "cat"}]}',
    ]  # fmt: skip
    path = tmp_path / "c.jsonl"
    path.write_bytes(b"\n".join(line for pair in zip(good, bad, strict=True) for line in pair))
    done = cli("prepare", "--source", path, "--out", tmp_path / "out", *ONE)
    *found, advice = [line.removeprefix("error: ") for line in done.errors]
    assert [line.split(": ")[0] for line in found] == [f"{path}:{n}" for n in (2, 4, 6, 8, 10, 12)]
    assert advice == ADVICE
    assert visible(tmp_path / "out") == []
    dropped, faults = counted(cli, path, tmp_path / "out")
    assert faults == found
    assert sum(dropped.values()) == 6
    assert [one["id"] for one in lines(tmp_path / "out" / "train.jsonl")] == [
        f"toy-{n}" for n in range(6)
    ]


def test_of_very_many_bad_lines_twenty_are_shown_and_reading_stops(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "blocks", partial(files.blocks, size=1000))
    path = tmp_path / "c.jsonl"
    path.write_bytes(b"no JSON at all\n" * 50_000)
    done = cli("prepare", "--source", path, "--out", tmp_path / "out")
    assert len(done.errors) == 21
    assert done.errors[19].startswith(f"error: {path}:20: not JSON")
    assert done.errors[20] == f"error: {ADVICE}"


def test_a_conversation_of_ten_thousand_turns_is_dropped_and_counted(
    cli: Cli, tmp_path: Path, write_jsonl: Write
) -> None:
    rows = [*chats(3), conversation(*["again"] * 10_000, number=7)]
    path = write_jsonl(tmp_path / "c.jsonl", rows)
    assert counted(cli, path, tmp_path / "out") == ({"too many turns": 1}, [])


def test_a_message_of_fifty_megabytes_is_dropped_and_counted(
    cli: Cli, tmp_path: Path, write_jsonl: Write
) -> None:
    rows = [*chats(3), conversation("x" * 50_000_000, number=7), *chats(3, 10)]
    path = write_jsonl(tmp_path / "c.jsonl", rows)
    assert counted(cli, path, tmp_path / "out") == ({"a turn too long": 1}, [])
    assert len(lines(tmp_path / "out" / "train.jsonl")) == 6


def test_one_id_for_two_conversations_is_one_line_with_both_places_or_is_counted(
    cli: Cli, tmp_path: Path, write_jsonl: Write
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    one, two = folder / "a.jsonl", folder / "b.jsonl"
    write_jsonl(one, chats(5))
    write_jsonl(two, [*chats(2, 20), {**conversation("quite another", number=3)}, *chats(1, 2)])
    said = refused(cli, folder, tmp_path / "out")
    assert said == f"{two}:3: id: 'toy-3' is another conversation's too, at {one}:4"
    for more in ([], ["conversations.dedup=null"], ["--keep-dropped"]):
        dropped, faults = counted(cli, folder, tmp_path / "out", *more)
        assert dropped == {"the same id with other turns": 1, "the same id and turns again": 1}
        (fault,) = faults
        assert fault.startswith(f"{two}:3: id: 'toy-3' is another conversation's too")
        kept = lines(tmp_path / "out" / "train.jsonl")
        assert [one["id"] for one in kept] == [f"toy-{n}" for n in (0, 1, 2, 3, 4, 20, 21)]
        assert kept[3] == chats(5)[3]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("wildcat", "neither a file nor a source by that name; did you mean 'wildchat'?"),
        ("hh_rlhf", "did you mean 'hh-rlhf'?"),
        ("zzz", "there are: quickstart, wildchat, lmsys, prism, oasst, sharegpt, hh-rlhf"),
        ("logs/gone.jsonl", "no such file"),
    ],
)
def test_a_source_that_is_none_is_one_line_with_the_nearest(
    cli: Cli, tmp_path: Path, source: str, says: str
) -> None:
    for more in ([], ["--on-error", "reject"]):
        done = cli("prepare", "--source", source, "--out", tmp_path / "out", *more)
        assert done.error.startswith(f"error: conversations.source: {source}: ")
        assert says in done.error
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.csv"])
def test_an_empty_file_is_one_line(cli: Cli, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(b"") if name.endswith(".gz") else b"")
    for more in ([], ["--on-error", "reject"]):
        done = cli("prepare", "--source", path, "--out", tmp_path / "out", *more)
        assert str(path) in done.errors[0]
        assert len(done.errors) <= 2
        assert visible(tmp_path / "out") == []


def test_where_nothing_is_left_one_line_says_what_went(
    cli: Cli, tmp_path: Path, write_jsonl: Write
) -> None:
    rows = [{**one, "metadata": {"toxic": True}} for one in chats(3)]
    rows.append(conversation(" ", number=9))
    path = write_jsonl(tmp_path / "c.jsonl", rows)
    done = cli("prepare", "--source", path, "--out", tmp_path / "out")
    assert done.error == (
        f"error: {path}: no conversation is left: flagged toxic 3, no user turn 1"
    )
    assert visible(tmp_path / "out") == []


def test_where_every_line_is_bad_one_line_says_so(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(b"no\nnot\nat all\n")
    done = cli("prepare", "--source", path, "--out", tmp_path / "out", "--on-error", "reject")
    assert done.error == f"error: {path}: no conversation is left: not JSON 3"
    assert visible(tmp_path / "out") == []


def test_text_that_no_file_can_hold_is_a_counted_rejection_where_it_is_not_mended(
    cli: Cli, tmp_path: Path
) -> None:
    path = tmp_path / "c.jsonl"
    odd = [conversation(text, number=n) for n, text in enumerate(("a\0b", "c\ud800d", "fine"))]
    path.write_text("".join(json.dumps(one) + "\n" for one in odd))
    dropped, faults = counted(cli, path, tmp_path / "out", "conversations.clean=null")
    assert sum(dropped.values()) == len(faults) == 2
    assert [fault.split(": ")[0] for fault in faults] == [f"{path}:1", f"{path}:2"]
    assert counted(cli, path, tmp_path / "out") == ({}, [])


@pytest.mark.skipif(sys.platform == "darwin", reason="names of files are UTF-8 there")
def test_a_file_whose_name_is_no_text_is_read_like_others(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    name = os.fsencode(folder) + b"/caf\xe9.jsonl"
    Path(os.fsdecode(name)).write_text(json.dumps(chats(1)[0]) + "\nno JSON\n\n")
    dropped, faults = counted(cli, folder, tmp_path / "out", "--keep-dropped")
    assert dropped == {"not JSON": 1}
    assert len(faults) == 1


def test_settings_that_no_process_can_begin_with_are_one_line(
    cli: Cli, large: Path, tmp_path: Path
) -> None:
    (tmp_path / "ids.csv").write_text("a,b\n1,2\n")
    for setting, says in (
        ("conversations.clean.languages=[klingonish]", "'klingonish' is not a known language"),
        (f"conversations.clean.exclude_ids={tmp_path / 'ids.csv'}", "ids.csv"),
    ):
        done = cli("prepare", "--source", large, "--out", tmp_path / "out", setting,
                   "conversations.workers=2")  # fmt: skip
        assert says in done.error
        assert visible(tmp_path / "out") == []


def test_out_that_is_a_file_is_one_line(cli: Cli, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    done = cli("prepare", "--source", corpus, "--out", tmp_path / "out")
    assert done.error == f"error: {tmp_path / 'out'}: is a file; name a folder with --out"
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize(
    ("source", "out"),
    [("logs/train.jsonl", "logs"), ("logs", "logs"), ("logs", "logs/deep/out"), ("logs", "link")],
)
def test_out_where_the_source_is_is_one_line_and_the_source_stays(
    cli: Cli, tmp_path: Path, write_jsonl: Write, source: str, out: str
) -> None:
    """It would be overwritten, or a second run would read what the first one wrote."""
    (tmp_path / "logs").mkdir()
    write_jsonl(tmp_path / "logs" / "train.jsonl", chats(30))
    (tmp_path / "link").symlink_to(tmp_path / "logs")
    before = contents(tmp_path)
    done = cli("prepare", "--source", tmp_path / source, "--out", tmp_path / out, *ONE)
    assert str(tmp_path / source) in done.error
    assert str(tmp_path / out) in done.error
    assert contents(tmp_path) == before
