"""What a person sees while a model trains: the log, the moving line, trackers; and the MFU."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import re
import struct
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from userlm_synth.errors import UserError
from userlm_synth.progress import Progress
from userlm_synth.records import Record
from userlm_synth.training.flops import Sizes, peak_flops, sizes_of, step_flops
from userlm_synth.training.trackers import Tracker, check_trackers
from userlm_synth.training.watching import LOG, Unwatched, Watch, read_log

TOKEN = "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZ01234567"


def watch(folder: Path, start: int = 0, **changes: Any) -> Watch:
    """A watch of 40 steps that sends nothing anywhere."""
    options = {
        "stage": "user LM", "total_steps": 40, "start_step": start, "log_to": (),
        "run_name": "toy", "settings": {"epochs": 1.0, "note": f"key {TOKEN}"},
    }  # fmt: skip
    return Watch(folder, **{**options, **changes})


def line(step: int, **changes: Any) -> Record:
    figures = {"loss": 2.0, "end_loss": 0.5, "targets": 800.0, "ends": 10.0, "seconds": 0.5}
    return {"step": step, **figures, **changes}


FOUND = {"step": 20, "perplexity": 12.34, "perplexity_no_intent": 15.81, "end_found": 0.609}


# ---- the log ---------------------------------------------------------------------------------


def test_every_step_is_one_line_and_is_there_before_the_next_begins(tmp_path: Path) -> None:
    with watch(tmp_path) as one:
        for step in (1, 2):
            one.line(line(step))
            assert (tmp_path / LOG).read_bytes().count(b"\n") == step
    assert read_log(tmp_path) == [line(1), line(2)]


def test_a_validation_is_a_line_of_its_own_without_the_sample(tmp_path: Path) -> None:
    with watch(tmp_path) as one:
        one.line(line(20))
        one.validation(FOUND, "user: my secret plan")
    figures = {key: value for key, value in FOUND.items() if key != "step"}
    assert read_log(tmp_path) == [line(20), {"step": 20, "validation": figures}]
    assert "secret" not in (tmp_path / LOG).read_text()


def test_what_is_not_a_number_is_null_in_the_log(tmp_path: Path) -> None:
    with watch(tmp_path) as one:
        one.line(line(1, loss=float("nan")))
        one.validation({"step": 1, "perplexity": float("inf")})
    text = (tmp_path / LOG).read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert [entry.get("loss", entry.get("validation")) for entry in read_log(tmp_path)] == [
        None, {"perplexity": None},
    ]  # fmt: skip


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 200), st.booleans())
def test_after_a_kill_no_step_stands_there_twice_and_none_is_missing(
    tmp_path_factory: pytest.TempPathFactory, logged: int, start: int, torn: int, validated: bool
) -> None:
    """`logged` steps and a torn line were written, the state is that of `start`."""
    folder = tmp_path_factory.mktemp("run")
    start = min(start, logged)
    with watch(folder) as one:
        for step in range(1, logged + 1):
            one.line(line(step))
            if validated and step % 3 == 0:
                one.validation({"step": step, "perplexity": 2.0})
    with (folder / LOG).open("ab") as file:
        file.write(json.dumps(line(logged + 1)).encode()[:torn])
    with watch(folder, start) as one:
        assert set(one.validated) == {s for s in range(3, start + 1, 3) if validated}
        for step in range(start + 1, 14):
            one.line(line(step))
    steps = [entry["step"] for entry in read_log(folder) if "validation" not in entry]
    assert steps == list(range(1, 14))
    assert (folder / LOG).read_bytes().count(b"\n") == len(read_log(folder))


def test_a_training_from_the_beginning_starts_a_new_log(tmp_path: Path) -> None:
    for loss in (2.0, 3.0):
        with watch(tmp_path) as one:
            one.line(line(1, loss=loss))
    assert read_log(tmp_path) == [line(1, loss=3.0)]
    assert read_log(tmp_path / "nowhere") == []


def test_a_full_disk_is_one_line(tmp_path: Path, small_disk: Callable[[str], Path]) -> None:
    disk = small_disk("64k")

    def train() -> None:
        with watch(disk) as one:
            one.line(line(1))
            with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
                while filler.write(b"x" * 1000):
                    pass
            for step in range(2, 100):
                one.line(line(step))

    with pytest.raises(UserError, match=r"log\.jsonl: the disk is full; free some space"):
        train()
    steps = [entry["step"] for entry in read_log(disk)]
    assert steps == list(range(1, len(steps) + 1))


def test_other_processes_write_and_show_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Unwatched() as one:
        one.line(line(1))
        one.validation(FOUND, "user: hi")
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")
    assert 20 not in one.validated


# ---- the moving line -------------------------------------------------------------------------


def test_a_log_file_says_what_a_newcomer_wants_to_know_in_100_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with watch(tmp_path, 12_000, total_steps=34_567) as one:
        for step in range(12_001, 12_031):
            end = {"end_loss": 0.0, "ends": 0.0} if step % 2 else {}  # nobody left
            one.line(line(step, mfu=0.412, targets=61_728.0, **end))
            one.progress.started -= 1.0
            one.progress.shown -= 10.0 * (step == 12_014)
        one.validation(FOUND)
    out, err = capsys.readouterr()
    assert out == ""
    where, moving, found, last = err.splitlines()
    assert where.endswith(f"go to {tmp_path / LOG}")
    figures = r"loss 2\.00 \(end token 0\.50\), 123,456 targets/s, MFU 41 %"
    assert re.fullmatch(rf"  user LM: 12,015/34,567 steps, 5h\w+m left, {figures}", moving)
    assert re.fullmatch(rf"  user LM: 12,030/34,567 steps, took \w+, {figures}", last)
    assert max(map(len, (moving, found, last))) <= 100
    assert found == (
        "  step 20: validation perplexity 12.3 with intent, 15.8 without; "
        "end token found in 61 % of places"
    )


def test_the_moving_line_says_what_is_known_and_no_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with watch(tmp_path, stage="assistant LM") as one:
        one.line(line(1, ends=0.0))
        one.validation({"step": 1, "perplexity": 8.0})
    found, last = capsys.readouterr().err.splitlines()[1:]
    assert found == "  step 1: validation perplexity 8.00"
    assert last.endswith(", loss 2.00, 1,600 targets/s")


def test_a_sample_is_indented_cut_and_harmless(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turns = ["user: hi \x1b[2J\x07", "assistant: " + "word " * 500, *["user: more"] * 30]
    with watch(tmp_path) as one:
        one.validation(FOUND, "\n".join(turns))
    shown = capsys.readouterr().err.splitlines()[2:]
    assert shown[0] == "    user: hi \ufffd[2J\ufffd"
    assert all(text.startswith("    ") and len(text) <= 96 for text in shown)
    assert shown[3].endswith("word  ...")
    assert shown[-1] == "    ... and 20 more lines"
    assert len(shown) == 1 + 3 + 10 + 1


class Terminal:
    """A pseudo-terminal as standard error, and what its screen shows."""

    def __init__(self, columns: int) -> None:
        self.master, self.slave = os.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.stream = os.fdopen(self.slave, "w")

    def screen(self) -> list[str]:
        """Its lines after all that was written; `\\r\\x1b[K` wipes the last one."""
        self.stream.close()
        text = b""
        while True:
            try:
                text += (more := os.read(self.master, 65536))
            except OSError:  # all is read
                break
            if not more:
                break
        os.close(self.master)
        lines = text.decode().replace("\r\n", "\n").split("\n")
        return [shown.rpartition("\r\x1b[K")[2] for shown in lines]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Terminal]]:
    def make(columns: int) -> Terminal:
        one = Terminal(columns)
        monkeypatch.setattr(sys, "stderr", one.stream)
        return one

    yield make
    monkeypatch.undo()


def test_on_a_terminal_a_validation_stays_above_the_line_that_moves(
    tmp_path: Path, terminal: Callable[[int], Terminal]
) -> None:
    screen = terminal(120)
    with watch(tmp_path) as one:
        for step in range(1, 21):
            one.progress.shown -= 1
            one.line(line(step))
        one.validation(FOUND, "user: hi")
        one.line(line(21))
    shown = screen.screen()
    assert shown[1].startswith("  step 20: validation perplexity 12.3")
    assert shown[2] == "    user: hi"
    assert shown[3].startswith("  user LM: 21/40 steps, took ")
    assert shown[4:] == [""]


def test_a_line_wider_than_the_terminal_is_cut_while_it_moves(
    terminal: Callable[[int], Terminal],
) -> None:
    screen = terminal(40)
    progress = Progress("stage", 10, "steps", pace=False)
    progress.shown -= 1
    progress.step(1, "a note that is much longer than the terminal is wide")
    (shown,) = screen.screen()
    assert len(shown) == 39
    assert shown.startswith("  stage: 1/10 steps, ")


# ---- trackers --------------------------------------------------------------------------------


def test_a_tracker_that_is_not_installed_is_one_line_before_anything_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "like_wandb").mkdir()  # as the folder that wandb leaves: importable, and no wandb
    monkeypatch.syspath_prepend(tmp_path)
    check_trackers(["json"])
    with pytest.raises(UserError) as caught:
        watch(tmp_path / "run", log_to=("like_wandb", "json", "no_such_tracker"))
    assert str(caught.value) == (
        "log_to: like_wandb and no_such_tracker are not installed; "
        "`pip install like_wandb no_such_tracker`, or leave like_wandb and no_such_tracker out"
    )
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_fails_on_the_way_does_not_stop_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sent: list[int] = []

    def write(numbers: dict[str, float], step: int) -> None:
        sent.append(step)
        if step == 2:
            raise ConnectionError("the server is gone")

    with watch(tmp_path) as one:
        one.trackers = [Tracker("toy", "nowhere", write, lambda failed: None)]
        for step in (1, 2, 3):
            one.line(line(step))
    assert sent == [1, 2]
    assert len(read_log(tmp_path)) == 3
    assert "toy: gets no more figures (the server is gone)" in capsys.readouterr().err


def scalars(folder: Path) -> dict[str, list[int]]:
    """The steps of every curve, as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (run,) = folder.iterdir()
    events = EventAccumulator(str(run))
    events.Reload()
    return {tag: [one.step for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_shows_every_step_once_after_an_interruption(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    run = tmp_path / "run"
    for start, stop in ((0, 9), (5, 12)):
        with watch(run, start, log_to=("tensorboard",)) as one:
            for step in range(start + 1, stop + 1):
                one.line(line(step, mfu=float("nan")))
                if step in (4, 8):
                    one.validation({**FOUND, "step": step}, "user: hello")
    curves = scalars(tmp_path / "tracking" / "tensorboard")
    assert curves["train/loss"] == list(range(1, 13))
    assert curves["validation/perplexity"] == [4, 8]
    assert "train/step" not in curves
    assert "train/mfu" not in curves  # never a number
    err = capsys.readouterr().err
    assert f"tensorboard --logdir {tmp_path / 'tracking/tensorboard'}\n" in err
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert b"[HUGGING_FACE_TOKEN]" in written
    assert TOKEN.encode() not in written
    assert b"hello" not in written


def test_a_tracker_that_cannot_start_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    (tmp_path / "tracking").write_text("a file")
    with pytest.raises(UserError, match=r"^log_to: tensorboard does not start: .*leave it out$"):
        watch(tmp_path / "run", log_to=("tensorboard",))


def test_trackio_goes_on_with_the_run_that_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if importlib.util.find_spec("trackio") is None:
        pytest.skip("trackio is not installed")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # before its first import
    from trackio.sqlite_storage import SQLiteStorage

    for start, stop in ((0, 9), (5, 12), (0, 2)):
        with watch(tmp_path / "run", start, log_to=("trackio",)) as one:
            for step in range(start + 1, stop + 1):
                one.line(line(step))
            one.validation({**FOUND, "step": stop}, "user: hello")
    out, err = capsys.readouterr()
    assert out == ""
    assert "trackio show --project userlm_synth" in err
    runs = SQLiteStorage.get_runs("userlm_synth")
    assert len(runs) == 2, "interrupted and continued is one, begun anew another"
    logs = {name: SQLiteStorage.get_logs("userlm_synth", name) for name in runs}
    longer, shorter = sorted(logs.values(), key=len, reverse=True)
    assert sorted(one["step"] for one in longer if "train/loss" in one) == list(range(1, 13))
    assert sorted(one["step"] for one in shorter if "train/loss" in one) == [1, 2]
    assert [one["step"] for one in longer if "validation/perplexity" in one] == [9, 12]
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert TOKEN.encode() not in written
    assert b"hello" not in written


# ---- MFU -------------------------------------------------------------------------------------


def tiny(heads: int, shared_heads: int, head_dim: int, tied: bool) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=heads, num_key_value_heads=shared_heads, head_dim=head_dim,
        tie_word_embeddings=tied, attn_implementation="eager",
    )  # fmt: skip
    return LlamaForCausalLM(config)


@pytest.mark.parametrize(
    ("heads", "shared_heads", "head_dim", "tied"),
    [(2, 2, 8, True), (4, 2, 4, False), (4, 1, 16, False)],
)
def test_the_formula_is_what_torch_counts(
    heads: int, shared_heads: int, head_dim: int, tied: bool
) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model = tiny(heads, shared_heads, head_dim, tied)
    lengths, targets = np.array([7, 12, 3]), 0
    with FlopCounterMode(display=False) as counter:
        for length in lengths.tolist():
            hidden = model.model(torch.randint(50, (1, length))).last_hidden_state[0, ::2]
            model.lm_head(hidden).sum().backward()
            targets += len(hidden)
    sizes = sizes_of(model)
    assert sizes is not None
    assert sizes.attention == 2 * heads * head_dim
    # torch counts all pairs of tokens, not the causal half
    other_half = 6 * sizes.attention * int((lengths**2).sum())
    counted = counter.get_total_flops() - other_half
    assert counted == pytest.approx(step_flops(sizes, lengths, targets), rel=5e-4)


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=20), st.integers(0, 5000))
def test_flops_add_up_and_packing_changes_nothing(lengths: list[int], targets: int) -> None:
    sizes = Sizes(parameters=970_000_000, attention=16 * 2048, hidden=2048, vocabulary=128_256)
    whole = step_flops(sizes, np.array(lengths), targets)
    alone = [step_flops(sizes, np.array([length]), 0) for length in lengths]
    head = step_flops(sizes, np.array([], dtype=np.int64), targets)
    assert whole == pytest.approx(sum(alone) + head)
    assert whole >= 6 * sizes.parameters * sum(lengths)
    one = step_flops(sizes, np.array([sum(lengths)]), targets)
    assert one >= whole, "a row as one sequence would see more"


def test_a_mixture_of_experts_has_no_mfu() -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, num_local_experts=2,
    )  # fmt: skip
    assert sizes_of(MixtralForCausalLM(config)) is None


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.4),
        ("NVIDIA H200 NVL", 835.5),
        ("NVIDIA GH200 480GB", 989.4),
        ("NVIDIA B200", 2250),
        ("NVIDIA GB200", 2500),
        ("NVIDIA L4", 121),
        ("NVIDIA L40", 181.05),
        ("NVIDIA L40S", 362.05),
        ("NVIDIA RTX A6000", 154.8),
        ("NVIDIA RTX 6000 Ada Generation", 364.2),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("AMD Instinct MI300X", 1307.4),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("Tesla T4", None),
        ("cpu", None),
        ("", None),
    ],
)
def test_a_gpu_is_known_by_its_own_name_alone(name: str, tera: float | None) -> None:
    assert peak_flops(name) == (None if tera is None else pytest.approx(tera * 1e12))
