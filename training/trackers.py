"""Where a training's numbers can be sent: TensorBoard, Weights & Biases, trackio.

Numbers and settings are sent, never people's text. A run that was interrupted goes on under the
name that it had, which `runs.json` beside the trackers' files keeps.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import secrets
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from userlm_synth.errors import UserError
from userlm_synth.privacy import redact
from userlm_synth.progress import say
from userlm_synth.records import Record, parse_json, write_json

PROJECT = "userlm_synth"
Sent = tuple[int, str]  # step, and "train" or "validation"


@dataclass
class Tracker:
    """An open run. `where` says to people where to look; `known` is not sent again."""

    name: str
    where: str
    write: Callable[[dict[str, float], int], object]
    finish: Callable[[bool], object]  # True: the training failed
    known: Collection[Sent] = ()

    def send(self, step: int, group: str, numbers: dict[str, float]) -> None:
        """`group/NAME: number` for each, at a step."""
        if (step, group) not in self.known:
            self.write({f"{group}/{name}": value for name, value in numbers.items()}, step)


def check_trackers(names: Sequence[str]) -> None:
    """`UserError` where one is named that is not installed; to be called before work begins."""
    missing = []
    for name in names:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:  # wandb writes to a folder of its own name
            missing.append(name)
    if missing:
        them = " and ".join(missing)
        raise UserError(
            f"log_to: {them} {'is' if len(missing) == 1 else 'are'} not installed; "
            f"`pip install {' '.join(missing)}`, or leave {them} out"
        )


def start(
    name: str, folder: Path, run_name: str, settings: Record, start_step: int, logged: set[Sent]
) -> Tracker:
    """Open a tracker's run: a new one, or after `start_step` > 0 the one of before.

    What is kept on this machine goes to `folder`, but for trackio's (`$TRACKIO_DIR`). `logged` is
    what stood in the log before: a tracker that goes on has it, and steps that are done again have
    the same numbers. TensorBoard hides what is later than `start_step` by itself.
    """
    settings = _clean(settings)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output is for data
            if name == "tensorboard":
                return _tensorboard(folder / name, run_name, settings, start_step)
            key, goes_on = _key(f"{name}: {run_name}", folder, start_step)
            tracker = {"wandb": _wandb, "trackio": _trackio}[name](folder, run_name, key, settings)
    except Exception as error:  # each fails in classes of its own: no key, no network, no server
        first = (str(error).strip() or repr(error)).splitlines()[0].rstrip(".")
        raise UserError(
            f"log_to: {name} does not start: {first}; mend it or leave it out"
        ) from error
    tracker.known = logged if goes_on else ()
    return tracker


def _key(name: str, folder: Path, start_step: int) -> tuple[str, bool]:
    """What the run is called, and whether it is the one of before."""
    path = folder / "runs.json"
    try:
        keys = parse_json(path.read_bytes())
    except (OSError, ValueError):
        keys = {}
    if start_step and name in keys:
        return str(keys[name]), True
    keys[name] = secrets.token_hex(4)
    write_json(path, keys)
    return keys[name], False


def _clean(value: Any) -> Any:
    """Settings with placeholders for what looks like a secret."""
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    return redact(value)[0] if isinstance(value, str) else value


def _tensorboard(folder: Path, run_name: str, settings: Record, start_step: int) -> Tracker:
    from torch.utils.tensorboard import SummaryWriter

    own = folder / run_name.replace(" ", "-").replace("/", "-")
    writer = SummaryWriter(str(own), purge_step=start_step + 1, flush_secs=10)
    writer.add_text("settings", f"```json\n{json.dumps(settings, indent=2)}\n```", start_step)

    def write(numbers: dict[str, float], step: int) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)

    return Tracker(
        "tensorboard", f"tensorboard --logdir {folder}", write, lambda failed: writer.close()
    )


def _wandb(folder: Path, run_name: str, key: str, settings: Record) -> Tracker:
    import wandb

    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT") or PROJECT,
        name=run_name,
        id=key,
        resume="allow",
        config=settings,
        dir=folder,
        settings=wandb.Settings(console="off", save_code=False),  # sample conversations stay here
    )
    return Tracker(
        "wandb",
        f"offline; `wandb sync {Path(run.dir).parent}` sends it" if run.offline else str(run.url),
        lambda numbers, step: run.log(numbers, step=step),
        lambda failed: run.finish(exit_code=int(failed)),
    )


def _trackio(folder: Path, run_name: str, key: str, settings: Record) -> Tracker:
    import trackio

    run = trackio.init(
        project=PROJECT,
        name=f"{run_name} {key}",
        resume="allow",
        config=settings,
        private=True,  # where TRACKIO_SPACE_ID names a Space on the Hub that is not there yet
        embed=False,
    )
    return Tracker(
        "trackio",
        f"trackio show --project {PROJECT}",
        lambda numbers, step: run.log(numbers, step=step),
        lambda failed: trackio.finish(),
    )


def close(tracker: Tracker, failed: bool) -> None:
    """End a tracker's run; what goes wrong there is said, not raised."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            tracker.finish(failed)
    except Exception as error:
        say(f"  {tracker.name}: did not end well ({error})")
