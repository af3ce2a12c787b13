"""The processes of one run: one alone, or many under `torchrun` or `accelerate launch`.

Both launchers say in the environment who is who (RANK, WORLD_SIZE, LOCAL_RANK). Rank 0 decides,
writes and speaks; the others compute along.
"""

from __future__ import annotations

import functools
import os
import platform
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

from userlm_synth.errors import UserError

Value = TypeVar("Value")
PATIENCE = timedelta(hours=24)  # while rank 0 prepares data, the others wait


@dataclass(frozen=True)
class Ranks:
    """This process among `world`, and its device."""

    rank: int
    world: int
    device: Any

    @property
    def first(self) -> bool:
        """The one that decides, writes and speaks."""
        return self.rank == 0

    def share(self, value: Value) -> Value:
        """Rank 0's value, on all."""
        if self.world == 1:
            return value
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def sums(self, figures: Any) -> Any:
        """The sum over all processes of a small fp64 tensor [n], on the CPU."""
        import torch

        total = figures.to("cpu", torch.float64)
        if self.world > 1:
            torch.distributed.all_reduce(total)
        return total

    def gather(self, value: Value) -> list[Value]:
        """Every process's value, in order."""
        if self.world == 1:
            return [value]
        import torch.distributed as dist

        box: list[Any] = [None] * self.world
        dist.all_gather_object(box, value)
        return box

    def fail(self, text: str) -> NoReturn:
        """All processes found the same fault: the first one raises it as a `UserError`."""
        if self.first:
            raise UserError(text)
        time.sleep(5)  # the first process's end ends this one
        sys.exit(1)

    def wait(self) -> None:
        """For all the others."""
        if self.world > 1:
            import torch.distributed as dist

            dist.barrier()

    def leave(self) -> None:
        """The end of the run: nobody goes while another still waits for a word of its."""
        if self.world > 1:
            import torch.distributed as dist

            dist.barrier()
            dist.destroy_process_group()
            join.cache_clear()


@functools.cache
def join() -> Ranks:
    """Meet the other processes (once); alone, nothing is set up."""
    import torch

    world = int(os.environ.get("WORLD_SIZE", 1))
    rank, local = int(os.environ.get("RANK", 0)), int(os.environ.get("LOCAL_RANK", 0))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local if world > 1 else 0) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if world > 1:
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        torch.distributed.init_process_group(backend, timeout=PATIENCE)
    return Ranks(rank, world, device)


def device_name(device: Any) -> str:
    """What a device is called: the GPU's name, or the processor's architecture."""
    if device.type == "cuda":
        import torch

        return str(torch.cuda.get_device_name(device))
    return f"CPU ({platform.machine()})"


def shard(objective: Any, layers: Any, ranks: Ranks, half: bool) -> None:
    """FSDP2: weights, gradients and optimizer states are divided among the processes, in place.

    Weights stay fp32 and are gathered in bf16 where `half`; gradients are summed, not averaged,
    in fp32.
    """
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(ranks.device.type, (ranks.world,))
    low = torch.bfloat16 if half else None
    policy = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32 if half else None)
    for part in (*layers, objective):
        fully_shard(part, mesh=mesh, mp_policy=policy)
