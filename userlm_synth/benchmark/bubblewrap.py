"""The walls of a sandbox, as options of `bwrap`: what a program finds there, and what not."""

from __future__ import annotations

import functools
import sys
import sysconfig
from pathlib import Path


def python() -> Path:
    """The interpreter's own file, also where we run in a virtual environment."""
    base: str | None = getattr(sys, "_base_executable", None)
    return Path(base or sys.executable).resolve()


@functools.cache
def walls(disk: int) -> list[str]:
    """bubblewrap's options: everything apart, and of the files the interpreter's alone, read-only.

    No /proc: a program needs none, and it cannot be mounted in many containers.
    """
    options = ["--unshare-all", "--unshare-user", "--uid", "65534", "--gid", "65534"]
    options += ["--hostname", "sandbox", "--die-with-parent", "--new-session"]
    options += ["--size", str(disk), "--tmpfs", "/tmp"]
    for folder in ("/lib", "/lib32", "/lib64"):
        if Path(folder).is_symlink():  # into /usr
            options += ["--symlink", str(Path(folder).readlink()), folder]
    for path in readable():
        options += ["--ro-bind", str(path), str(path)]
    for path in hidden():
        options += ["--tmpfs", str(path), "--remount-ro", str(path)]
    for device in ("null", "zero", "random", "urandom"):
        options += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    return [*options, "--remount-ro", "/", "--chdir", "/tmp"]


def readable() -> list[Path]:
    """What the interpreter needs: its file, its library, and the system's shared libraries.

    Never a whole prefix, which may be a home folder.
    """
    found = {python()}
    for prefix in {sys.base_prefix, sys.base_exec_prefix}:
        for library in (Path(prefix, "lib"), Path(prefix, "lib64")):
            found |= {library, library.resolve()}
    found |= set(libraries())
    found |= {Path("/usr", name) for name in ("lib", "lib32", "lib64", "share/zoneinfo")}
    found |= {Path("/", name) for name in ("lib", "lib32", "lib64", "etc/ld.so.cache")}
    stores = (Path("/nix/store"), Path("/gnu/store"))  # where every library is a folder of its own
    found |= {store for store in stores if store in python().parents}
    there = sorted(path for path in found if path.exists() and not path.is_symlink())
    return [path for path in there if not any(outer in path.parents for outer in there)]


def libraries() -> list[Path]:
    """The folders of the interpreter's own standard library, not of a virtual environment."""
    base = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
    return [
        Path(sysconfig.get_path(name, vars=base)).resolve() for name in ("stdlib", "platstdlib")
    ]


def hidden() -> list[Path]:
    """Folders of installed packages within what is readable: none of a program's business."""
    packages = {library / "site-packages" for library in libraries()}
    packages.add(Path("/usr/lib/python3/dist-packages"))
    return sorted(path for path in packages if path.is_dir())
