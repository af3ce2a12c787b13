"""How a training ends early: a signal, after the step and its state; or memory that ran out."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from userlm_synth.errors import UserError
from userlm_synth.progress import say
from userlm_synth.training.ranks import Ranks


class Stop:
    """Notes Ctrl-C and SIGTERM (what a cluster sends before it takes a machine away), so that the
    step can be finished and saved; a second Ctrl-C stops at once."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self.signalled = ranks, False
        self.former: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.former[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.former.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signalled and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signalled = True
        say("\n  stopping after this step, with a state to continue from (Ctrl-C again: at once)")

    def asked(self) -> bool:
        """Has any process been told to stop? All of them get the same answer."""
        import torch

        return bool(self.ranks.sums(torch.tensor([float(self.signalled)]))[0])


@contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Memory that ran out, as one line with what to lower."""
    import torch

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        short = isinstance(error, (torch.OutOfMemoryError, MemoryError))
        if not short and "can't allocate memory" not in str(error):
            raise
        raise UserError(
            "training ran out of memory; lower train.micro_batch_tokens (down to max_length), set "
            "train.gradient_checkpointing=true or train.optimizer=adamw_8bit, lower "
            "train.max_length, or use more processes (torchrun)"
        ) from error
