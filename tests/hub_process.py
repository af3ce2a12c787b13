"""Processes with the Hub's client, forked from one that has imported it: no second of imports each.

The client reads the environment when it is imported, which here is before the process has its own;
`READ_AGAIN` reads it as an import would, and a test holds that against a fresh process.
"""

from __future__ import annotations

import os
from multiprocessing import forkserver, popen_forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

import warm

IMPORTED = [
    "huggingface_hub.hf_api", "huggingface_hub.repocard",
    "userlm_synth.hub.release", "pandas", "pyarrow.dataset", "multiprocess.pool", "hub_process",
]  # fmt: skip
READ_AGAIN = """
def read_again():
    import importlib, sys
    from huggingface_hub import constants, hf_api
    former = dict(vars(constants))
    importlib.reload(constants)
    for name, module in list(sys.modules.items()):  # what says `from .constants import NAME`
        if name.startswith("huggingface_hub."):
            for key, value in list(vars(module).items()):
                if key.isupper() and key in former and value is former[key]:
                    setattr(module, key, getattr(constants, key))
    hf_api.api.endpoint = constants.ENDPOINT
    if files := sys.modules.get("huggingface_hub.hf_file_system"):
        files.hffs = files.HfFileSystem()
read_again()
"""

_server = forkserver.ForkServer()
_server.set_forkserver_preload(IMPORTED)


class _Popen(popen_forkserver.Popen):
    """From a server of its own, beside the one of `warm`."""

    def _launch(self, process_obj: Any) -> None:
        ours = _server.connect_to_new_process
        with mock.patch.object(forkserver, "connect_to_new_process", ours):
            super()._launch(process_obj)  # type: ignore[misc]


class _Process(BaseProcess):
    _start_method = "forkserver"

    @staticmethod
    def _Popen(process_obj: Any) -> _Popen:
        return _Popen(process_obj)


def start(code: str, *arguments: object, torch: bool = False, **more: str) -> warm.Child:
    """As `python -c CODE ARGUMENTS...`, with these variables and none of the tester's own HF_*.

    With `torch` it is forked by the server of `warm`, for what needs torch: streaming does too.
    """
    child = warm.Child(None)
    environment = {name: one for name, one in os.environ.items() if not name.startswith("HF_")}
    given = (READ_AGAIN + code, [str(one) for one in arguments], environment | more)
    where = (str(Path.cwd()), str(child.folder))
    kind: Any = warm._forking.Process if torch else _Process
    child.process = kind(target=warm._become, args=(*given, *where), daemon=True)
    child.process.start()
    return child
