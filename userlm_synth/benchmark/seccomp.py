"""A system call filter for model-written programs, as bytes for `bwrap --seccomp`.

It settles what resource limits cannot: a limit on processes does not bind root, and shared memory
and message queues count in no process. So a program stays one process (threads are allowed), and
all of its memory is in its address space. Kernel doors that no honest program needs are shut too.
Source of format and numbers: Linux, `filter.h`, `seccomp.h`, `unistd.h`.
"""

from __future__ import annotations

import errno
import platform
import struct

LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL, FAIL = 0x7FFF0000, 0x80000000, 0x00050000  # FAIL carries an errno
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
CLONE_THREAD = 0x00010000
X32 = 0x40000000  # numbers of a second table of calls, on x86_64 alone
CLONE3 = 435  # its flags are behind a pointer: refused as unknown, the C library then uses clone

#: ptrace, process_vm_*, shmget, semget, msgget, memfd_create, unshare, setns, mount, keyctl,
#: add_key, request_key, bpf, perf_event_open, userfaultfd; on x86_64 fork and vfork.
MACHINES: dict[str, tuple[int, int, tuple[int, ...]]] = {  # architecture, clone, refused
    "x86_64": (
        0xC000003E,
        56,
        (57, 58, 101, 310, 311, 29, 64, 68, 319, 272, 308, 165, 250, 248, 249, 321, 298, 323),
    ),
    "aarch64": (
        0xC00000B7,
        220,
        (117, 270, 271, 194, 190, 186, 279, 97, 268, 40, 219, 217, 218, 280, 241, 282),
    ),
}
#: io_uring_*, open_tree, move_mount, fsopen, memfd_secret: one number on every machine.
REFUSED_EVERYWHERE = (425, 426, 427, 428, 429, 430, 447)


def is_known(machine: str = "") -> bool:
    """Whether there is a filter for this machine."""
    return (machine or platform.machine()) in MACHINES


def one_process(machine: str = "") -> bytes:
    """The filter for a machine (this one by default): no second process, no memory elsewhere."""
    architecture, clone, refused = MACHINES[machine or platform.machine()]
    forbidden = FAIL | errno.EPERM
    rules = [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
        (AT_LEAST, 0, 1, X32),
        (RETURN, 0, 0, KILL),
    ]
    for number in (*refused, *REFUSED_EVERYWHERE):
        rules += [(EQUAL, 0, 1, number), (RETURN, 0, 0, forbidden)]
    rules += [
        (EQUAL, 0, 1, CLONE3),
        (RETURN, 0, 0, FAIL | errno.ENOSYS),
        (EQUAL, 1, 0, clone),
        (RETURN, 0, 0, ALLOW),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (ANY_BIT, 0, 1, CLONE_THREAD),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, forbidden),
    ]
    return b"".join(struct.pack("=HBBI", *rule) for rule in rules)
