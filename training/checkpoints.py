"""Where an interrupted training continues: model and optimizer, written atomically.

A state is a folder that torch.distributed.checkpoint writes, each process its share, so that a run
may continue on another number of processes. It gets its name when it is whole: `state.json`, which
lists its files with their sizes, is written last, then the folder is renamed. A state belongs to
one set of settings, data and start (its key); another key's is ignored, and a torn one is
recognised and skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from userlm_synth.errors import explain_disk_full
from userlm_synth.progress import say
from userlm_synth.training.ranks import Ranks

KEPT = 2  # the one before the newest stays, should the newest turn out unreadable


class States:
    """The saved states of one training run, in a folder beside its output."""

    def __init__(self, folder: Path, key: str, ranks: Ranks) -> None:
        self.folder, self.key, self.ranks = folder, key, ranks

    def save(self, step: int, model: Any, optimizer: Any) -> None:
        """Write the state after `step` steps; all processes call it together."""
        from torch.distributed.checkpoint.state_dict_saver import save

        path = self.folder / f"step-{step:08d}"
        part = path.with_suffix(".part")
        with explain_disk_full(path):
            if self.ranks.first:
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir(parents=True)
            self.ranks.wait()
            with _quietly():
                save(_state(model, optimizer), checkpoint_id=part, no_dist=self.ranks.world == 1)
            if self.ranks.first:
                _finish(part, path, {"key": self.key, "step": step})
                for old in self._found()[KEPT:]:
                    shutil.rmtree(old)
        self.ranks.wait()

    def load(self, model: Any, optimizer: Any) -> int:
        """Put the newest whole state of this key into model and optimizer; returns its step, or 0
        where there is none."""
        from torch.distributed.checkpoint.state_dict import set_state_dict
        from torch.distributed.checkpoint.state_dict_loader import load

        path = self.ranks.share(self._newest() if self.ranks.first else None)
        if path is None:
            return 0
        state = _state(model, optimizer)
        with _quietly():
            load(state, checkpoint_id=path, no_dist=self.ranks.world == 1)
            set_state_dict(
                model, optimizer, model_state_dict=state["model"],
                optim_state_dict=state["optimizer"], options=_only_trained(),
            )  # fmt: skip
        return int(path.name.removeprefix("step-"))

    def _found(self) -> list[Path]:
        """Finished states, the newest first."""
        states = (p for p in self.folder.glob("step-*") if p.is_dir() and p.suffix != ".part")
        return sorted(states, reverse=True)

    def _newest(self) -> Path | None:
        for path in self._found():
            try:
                about = json.loads((path / "state.json").read_bytes())
                whole = all((path / f).stat().st_size == size for f, size in about["files"].items())
            except (OSError, ValueError, KeyError):
                whole = False
            if not whole:
                say(f"  {path.name}: skipped, it is not whole")
            elif about["key"] == self.key:
                return path
        return None


def _only_trained() -> Any:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(ignore_frozen_params=True, strict=False)


def _state(model: Any, optimizer: Any) -> dict[str, Any]:
    from torch.distributed.checkpoint.state_dict import get_state_dict

    parts = get_state_dict(model, optimizer, options=_only_trained())
    return dict(zip(("model", "optimizer"), parts, strict=True))


def _finish(part: Path, path: Path, about: dict[str, Any]) -> None:
    files = {file.name: file.stat().st_size for file in sorted(part.iterdir())}
    with (part / "state.json").open("w") as file:
        json.dump({**about, "files": files}, file)
        file.flush()
        os.fsync(file.fileno())
    shutil.rmtree(path, ignore_errors=True)
    part.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


@contextmanager
def _quietly() -> Iterator[None]:
    """It warns of what is so by design: one process, no process group."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
