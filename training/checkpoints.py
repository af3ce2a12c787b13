"""Where an interrupted training continues: model and optimizer, written atomically.

A state belongs to one set of settings, data and start (its key); another key's is ignored. A torn
or foreign file is recognised and skipped, and the newest whole one counts.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from userlm_synth.errors import explain_disk_full
from userlm_synth.progress import say


class States:
    """The saved states of one training run, in a folder beside its output."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write the state of `step`; the one before it is kept until this one is whole."""
        import torch

        path = self.folder / f"step-{step:08d}.pt"
        part = path.with_suffix(".part")
        with explain_disk_full(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                torch.save({"key": self.key, "step": step, **state}, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        for old in sorted(self.folder.glob("step-*.pt"))[:-1]:
            old.unlink()

    def latest(self) -> dict[str, Any] | None:
        """The newest whole state of this key, or None."""
        import torch

        for path in sorted(self.folder.glob("step-*.pt"), reverse=True):
            try:
                state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            except Exception as error:  # a torn file fails in many ways
                say(f"  {path.name}: skipped, it is not whole ({type(error).__name__})")
                continue
            if state.get("key") == self.key:
                return state
        return None

    def clear(self) -> None:
        """Training is done; the states are not needed any more."""
        shutil.rmtree(self.folder, ignore_errors=True)
