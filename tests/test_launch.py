"""Facts about the launch files, with small stand-ins for what is not here (Slurm, GPUs)."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import warm
import yaml

from userlm_synth.recipe import shipped_recipes

LAUNCH = Path(__file__).resolve().parent.parent / "training" / "launch"
FILES = ("eight_gpus.sh", "four_gpus.sh", "one_gpu.sh", "skypilot.yaml", "slurm.sbatch")

#: Stand-ins for commands; each is put on the PATH. `torchrun` here does as FATE says.
SAY = 'printf "%s\\n" "$@" > "$HOME/said"\n'
TORCHRUN = (
    SAY + 'echo $$ > "$HOME/pid"\n[ "$FATE" = forever ] || exit "$FATE"\n'
    "trap 'sleep 0.3; touch \"$HOME/state\"; exit 1' TERM\nwhile :; do sleep 0.05; done\n"
)
SLURM = {
    "srun": 'while [ "$1" != torchrun ]; do shift; done\nexec "$@"\n',
    "scontrol": 'if [ "$1" = show ]; then echo host-1; echo host-2\n'
    'else ls "$HOME" > "$HOME/then"; echo "$@" > "$HOME/asked"; fi\n',
    "scancel": 'echo "$@" > "$HOME/cancelled"; kill -TERM "$(cat "$HOME/pid")"\n',
}


def environment(home: Path, commands: dict[str, str], **more: str) -> dict[str, str]:
    """A PATH on which `commands` come first, and a HOME that they write to."""
    folder = home / "bin"
    folder.mkdir()
    for name, body in commands.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}")
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin", "HOME": str(home), **more}


def said(home: Path) -> list[str]:
    return (home / "said").read_text().splitlines()


def torchrun_options(words: list[str]) -> Any:
    """Arguments as the installed torchrun parses them; SystemExit where it would refuse them."""
    from torch.distributed.run import get_args_parser

    return get_args_parser().parse_args(words)


def test_the_launch_files_are_these_and_bash_and_yaml_can_read_them() -> None:
    assert tuple(sorted(path.name for path in LAUNCH.iterdir())) == FILES
    for path in LAUNCH.iterdir():
        text = path.read_text(encoding="utf-8")
        scripts = [text]
        if path.suffix == ".yaml":
            task = yaml.safe_load(text)
            assert task["num_nodes"] == 2
            assert task["envs"]["RECIPE"] in shipped_recipes()
            scripts = [task["setup"], task["run"]]
        for script in scripts:
            subprocess.run(["bash", "-n"], input=script, text=True, check=True)
        assert os.access(path, os.X_OK) == (path.suffix == ".sh")


@pytest.mark.parametrize(
    ("name", "processes", "recipe"),
    [("one_gpu.sh", 0, "userlm-1b"), ("four_gpus.sh", 4, "userlm-8b"),
     ("eight_gpus.sh", 8, "userlm-8b")],
)  # fmt: skip
def test_a_script_trains_the_recipe_that_it_is_given(
    name: str, processes: int, recipe: str, tmp_path: Path
) -> None:
    started = environment(tmp_path, {"torchrun": SAY, "userlm-synth": SAY})
    for given in ((), ("mine/own.yaml", "train.epochs=2", "name=two words")):
        subprocess.run(["bash", LAUNCH / name, *given], env=started, check=True)
        words = said(tmp_path)
        if processes:
            options = torchrun_options(words)
            assert (options.standalone, options.nproc_per_node) == (True, str(processes))
            assert (options.module, options.training_script) == (True, "userlm_synth")
            words = options.training_script_args
        chosen = given[0] if given else recipe
        assert words == ["train", chosen, "--out", f"runs/{Path(chosen).stem}", *given[1:]]
    assert recipe in shipped_recipes()


@contextmanager
def slurm(home: Path, fate: str) -> Iterator[subprocess.Popen[bytes]]:
    """The job, with all that it started gone at the end."""
    started = environment(
        home, {"torchrun": TORCHRUN, **SLURM}, FATE=fate, SLURM_JOB_ID="4711",
        SLURM_JOB_NODELIST="host-[1-2]", SLURM_JOB_NUM_NODES="2", SLURM_CPUS_PER_TASK="8",
    )  # fmt: skip
    command = ["bash", LAUNCH / "slurm.sbatch", "userlm-8b", "seed=1"]
    job = subprocess.Popen(command, env=started, start_new_session=True)
    try:
        yield job
    finally:
        with suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)


@pytest.mark.parametrize("fate", ["0", "3"])
def test_a_slurm_job_that_ends_by_itself_is_not_queued_again(fate: str, tmp_path: Path) -> None:
    with slurm(tmp_path, fate) as job:
        assert job.wait(20) == int(fate)
    assert not (tmp_path / "asked").exists()
    options = torchrun_options(said(tmp_path))
    assert (options.nnodes, options.nproc_per_node) == ("2", "8")
    assert (options.rdzv_backend, options.rdzv_endpoint) == ("c10d", "host-1:24711")
    assert options.training_script_args == [
        "train", "userlm-8b", "--out", "runs/userlm-8b", "seed=1",
    ]  # fmt: skip


def test_a_slurm_job_near_its_time_limit_saves_its_state_then_queues_again(tmp_path: Path) -> None:
    with slurm(tmp_path, "forever") as job:
        wait_for(tmp_path / "pid")
        time.sleep(0.2)  # until it traps the signal
        job.send_signal(signal.SIGUSR1)
        job.wait(20)
    assert (tmp_path / "cancelled").read_text() == "--signal=TERM 4711\n"
    assert (tmp_path / "asked").read_text() == "requeue 4711\n"
    assert "state" in (tmp_path / "then").read_text().split()


def test_skypilots_run_command_is_one_that_torchrun_and_the_program_know(tmp_path: Path) -> None:
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text(encoding="utf-8"))
    given = {
        **task["envs"], "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1",
        "SKYPILOT_NUM_GPUS_PER_NODE": "8", "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
    }  # fmt: skip
    started = environment(tmp_path, {"torchrun": SAY}, **given)
    (tmp_path / "venv").symlink_to(tmp_path, target_is_directory=True)
    subprocess.run(["bash", "-c", task["run"]], env=started, check=True)
    options = torchrun_options(said(tmp_path))
    assert (options.nnodes, options.node_rank, options.nproc_per_node) == ("2", 1, "8")
    assert options.master_addr == "10.0.0.1"
    recipe = task["envs"]["RECIPE"]
    assert options.training_script_args == ["train", recipe, "--out", f"/runs/{recipe}"]


def wait_for(path: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not (path.exists() and path.stat().st_size):
        assert time.monotonic() < end, f"{path.name} does not come"
        time.sleep(0.05)


RECIPE = """
name: long
conversations: {source: quickstart, count: 60, clean: null, dedup: null, workers: 1}
base:
  scratch: {vocabulary: 300, hidden: 16, layers: 1, heads: 1}
  train: {max_steps: 1, max_length: 64, batch_tokens: 64, micro_batch_tokens: 64, precision: fp32}
train: {max_steps: 2000, epochs: 2000, max_length: 128, batch_tokens: 256, validations: 0,
        precision: fp32}
"""


#: The launcher; its processes begin anew, as they do for users.
LAUNCHER = "from torch.distributed.run import main; main()"


@pytest.mark.slow
def test_sigterm_to_torchrun_leaves_a_state_to_go_on_from(tmp_path: Path) -> None:
    (tmp_path / "long.yaml").write_text(RECIPE)
    out = tmp_path / "run"
    command = ["train", tmp_path / "long.yaml", "--out", out]
    two = ["--standalone", "--nproc-per-node", "2", "-m", "userlm_synth"]
    job = warm.start(LAUNCHER, *two, *command, OMP_NUM_THREADS="1")
    wait_for(out / ".user_lm.training" / "log.jsonl")
    job.kill(signal.SIGTERM)
    assert job.wait(60).returncode
    (state,) = (out / ".user_lm.training").glob("step-*")
    step = int(state.name.removeprefix("step-"))
    again = warm.program(*command)
    end = time.monotonic() + 60
    while f"continues at step {step} of 2000" not in again.stderr:
        assert time.monotonic() < end, again.stderr
        time.sleep(0.05)
    again.kill()
