"""Processes that end with us, also where we are killed (kill -9) and cannot tell them.

vLLM's engine outlives a process that is killed, and holds the GPU's memory, so that the same
command could not go on. A small process of its own waits for the end of a pipe that we hold open,
and then kills what it was told.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

REAPER = """
import os, signal, sys
sys.stdin.buffer.read()
for pid in map(int, sys.argv[1:]):
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        pass
"""


class Reaper:
    """Kills processes, by id (a negative one: a process group), when this process is gone."""

    def __init__(self, pids: Sequence[int]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", REAPER, *map(str, pids)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is not for it
        )

    def dismiss(self) -> None:
        """They have ended by themselves, or are to live on."""
        self.process.kill()
        self.process.communicate()
