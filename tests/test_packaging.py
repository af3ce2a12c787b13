"""Facts about the wheel: all that the program needs is in it, and it works from any folder."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from toys import conversation
from userlm_synth.records import write_records

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the checkout so that nothing is left in it."""
    copy = tmp_path_factory.mktemp("copy")
    for name in ("userlm_synth", "training", "schemas", "recipes"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(copy / "dist")]
    try:
        if int(importlib.metadata.version("setuptools").split(".")[0]) >= 77:
            command.append("--no-isolation")
    except importlib.metadata.PackageNotFoundError:
        pass  # build fetches its own
    done = subprocess.run([*command, str(copy)], capture_output=True, text=True)
    if done.returncode and "--no-isolation" not in command:
        pytest.skip("no setuptools 77 here, and none to be fetched")
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = (copy / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's contents, installed by pip."""
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, "--target", str(target), str(wheel)], check=True)
    return target


def call(installed: Path, folder: Path, *arguments: str) -> str:
    """Run the installed program from another folder; returns its output."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-m", "userlm_synth", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_everything_in_the_checkout_is_in_the_wheel(wheel: Path) -> None:
    expected = {
        f"userlm_synth/{path.relative_to(start).as_posix()}"
        for start in (ROOT / "userlm_synth", ROOT)
        for path in start.rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        and (start != ROOT or path.relative_to(ROOT).parts[0] in ("schemas", "recipes", "training"))
    }
    names = set(zipfile.ZipFile(wheel).namelist())
    assert expected - names == set()
    for suffix in (".j2", ".yaml", ".schema.json", "world/topics/pets.yaml", "training/loop.py"):
        assert any(name.endswith(suffix) for name in expected), suffix
    strays = {name.split("/")[0] for name in names} - {"userlm_synth"}
    assert len(strays) == 1, strays  # the .dist-info folder
    assert not any("tests/" in name for name in names)


def test_the_installed_program_runs_from_another_folder(installed: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    code = "import userlm_synth.training as t; print(t.__file__)"
    place = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert place.stdout.startswith(str(installed)), place.stderr
    assert "Start with:" in call(installed, tmp_path, "--help")
    assert "quickstart" in call(installed, tmp_path, "recipes", "list")
    write_records(tmp_path / "c.jsonl", [conversation("hi", "hello")], "conversation")
    assert call(installed, tmp_path, "validate", "c.jsonl") == "1 records, all valid\n"
    whole = ("conversations.dedup=null", "conversations.clean=null")
    call(installed, tmp_path, "prepare", "--source", "quickstart", "--out", "chats", *whole)
    files = ["chats/train.jsonl", "chats/validation.jsonl", "chats/test.jsonl"]
    assert call(installed, tmp_path, "validate", *files) == "3,000 records, all valid\n"
