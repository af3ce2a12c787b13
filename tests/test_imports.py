"""The import rules, kept by reading every file of the package: one arrow, one way.

A new module has to be given its place in `MAY_IMPORT`.
"""

from __future__ import annotations

import ast
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"userlm_synth": ROOT / "userlm_synth", "userlm_synth.training": ROOT / "training"}
HEAVY = {
    "accelerate", "aiohttp", "datasets", "ftfy", "huggingface_hub", "jinja2", "jsonschema",
    "jsonschema_rs", "openai", "peft", "phonenumbers", "py3langid", "pyarrow", "ray",
    "safetensors", "scipy", "simplemma", "sklearn", "tensorboard", "tokenizers", "torch", "torchao",
    "trackio",
    "transformers", "vllm", "wandb",
}  # fmt: skip

LEAVES = {
    "_version", "errors", "folders", "language", "locks", "metrics", "money", "pages",
    "privacy", "processes", "progress", "resources", "world",
}  # fmt: skip
LOW = LEAVES | {"estimates", "records", "recipe"}
STAGES = {
    "conversations", "evaluation", "flip", "hub", "intents", "reporting", "simulate", "training",
}  # fmt: skip
READING = ("arrays", "near", "openings", "reading")
MAY_IMPORT = {
    "": {"_version"},
    **{leaf: {"errors", "resources"} for leaf in LEAVES},
    "money": {"errors", "progress"},
    "records": {"errors", "resources"},
    "recipe": {"errors", "resources", "records"},
    "estimates": {"records"},
    "user_lm": LOW,
    "backends": LOW | {"user_lm"},
    "asking": LOW | {"backends"},
    "conversations": LOW,
    "flip": LOW | {"user_lm"},
    "recipe_schema": LOW,
    "training": LOW | {"", "user_lm"},
    # any dataset is read, and copies in it are found, as when conversations are prepared
    "reporting": LOW | {"naturalness"} | {f"conversations.{one}" for one in READING},
    "hub": LOW | {"", "conversations.reading", "user_lm.loading"},
    "naturalness": LOW | {"asking", "backends", "user_lm"},
    "intents": LOW | {"asking", "backends"},
    "simulate": LOW | {"backends", "user_lm"},
    "serving": LOW | {"backends", "user_lm"},
    # scores with the training loss, so that the two cannot disagree
    "evaluation": LOW
    | {"asking", "backends", "naturalness", "user_lm"}
    | {f"training.{one}" for one in ("attention", "batches", "loss", "tokens")},
    # a benchmark is dialogues that are scored, an experiment trains and scores
    "benchmark": LOW | {"asking", "backends", "simulate", "user_lm"},
    "utility": LOW | {"training", "evaluation", "user_lm"},
    "run_folder": LOW | {""},
    "pipeline": LOW | STAGES | {"run_folder", "user_lm"},
    "summary": LOW | {"evaluation.columns"},
    "publishing": LOW | {"hub", "reporting"},
    "cli": LOW
    | STAGES
    | {"", "backends", "benchmark", "user_lm", "pipeline", "publishing", "serving", "summary"}
    | {"utility"},
    "__main__": {"cli"},
}


def modules() -> dict[str, Path]:
    """Every Python file of the package by its dotted name."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in folder.rglob("*.py"):
            parts = [p for p in path.relative_to(folder).with_suffix("").parts if p != "__init__"]
            found[".".join([package, *parts])] = path
    return found


MODULES = modules()
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def imports(tree: ast.AST, here: str, path: Path) -> Iterator[str]:
    """Dotted names of everything imported below a node, relative ones resolved."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here.split(".") if path.name == "__init__.py" else here.split(".")[:-1]
            start = ".".join(base[: len(base) - node.level + 1]) if node.level else ""
            whole = ".".join(part for part in (start, node.module or "") if part)
            yield from (f"{whole}.{alias.name}" for alias in node.names)


def own(name: str) -> str | None:
    """`userlm_synth.training.loss.x` -> `training.loss.x`; None for other packages."""
    if name != "userlm_synth" and not name.startswith("userlm_synth."):
        return None
    rest = name.removeprefix("userlm_synth").removeprefix(".")
    return "" if rest in ("", "__version__") else rest


def at_top_level(tree: ast.Module) -> Iterator[ast.AST]:
    """Statements that run on import: not in functions, not under TYPE_CHECKING."""
    todo: list[ast.AST] = list(tree.body)
    while todo:
        node = todo.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        todo += list(ast.iter_child_nodes(node))


def test_every_file_of_the_package_is_looked_at() -> None:
    walked = [
        Path(folder) / file
        for start in FOLDERS.values()
        for folder, _, files in os.walk(start)
        for file in files
        if file.endswith(".py")
    ]
    assert sorted(MODULES.values()) == sorted(walked)
    assert len(MODULES) >= 48
    for package in ("backends", "reporting", "simulate", "training", "user_lm", "world"):
        assert sum(name.startswith(f"userlm_synth.{package}.") for name in MODULES) >= 1


def test_click_lives_in_the_command_line_alone() -> None:
    users = {
        name
        for name, tree in TREES.items()
        if any(one.split(".")[0] == "click" for one in imports(tree, name, MODULES[name]))
    }
    assert {name.partition(".cli")[0] + ".cli" for name in users} == {"userlm_synth.cli"}


def test_heavy_packages_are_imported_inside_functions_only() -> None:
    found = [
        (name, one)
        for name, tree in TREES.items()
        for node in at_top_level(tree)
        for one in imports(node, name, MODULES[name])
        if one.split(".")[0] in HEAVY
    ]
    assert found == []


def test_numpy_is_imported_at_the_top_where_everything_needs_it() -> None:
    users = {
        name
        for name, tree in TREES.items()
        for node in at_top_level(tree)
        if any(one.split(".")[0] == "numpy" for one in imports(node, name, MODULES[name]))
    }
    assert {name.rpartition(".")[0] for name in users} == {
        "userlm_synth",  # estimates
        "userlm_synth.conversations", "userlm_synth.evaluation", "userlm_synth.naturalness",
        "userlm_synth.reporting", "userlm_synth.reporting.diversity",
        "userlm_synth.reporting.naturalness", "userlm_synth.reporting.trust",
        "userlm_synth.training",
    }  # fmt: skip


def test_imports_go_one_way() -> None:
    wrong = []
    for name, tree in TREES.items():
        unit = (own(name) or "").split(".")[0]
        assert unit in MAY_IMPORT, f"{name}: give it a place in MAY_IMPORT"
        for one in imports(tree, name, MODULES[name]):
            target = own(one)
            if target is None or target.split(".")[0] == unit:
                continue
            allowed = MAY_IMPORT[unit]
            if not any(target == a or (a and target.startswith(f"{a}.")) for a in allowed):
                wrong.append(f"{name} imports {one}")
    assert wrong == []


def test_stages_do_not_import_each_other_but_for_the_scores() -> None:
    exceptions = {
        stage: {one for one in MAY_IMPORT[stage] if one.split(".")[0] in STAGES} for stage in STAGES
    }
    assert {stage: found for stage, found in exceptions.items() if found} == {
        "evaluation": {f"training.{one}" for one in ("attention", "batches", "loss", "tokens")},
        "reporting": {f"conversations.{one}" for one in READING},
        "hub": {"conversations.reading"},
    }


def test_the_optimizer_lives_in_training_alone() -> None:
    users = {
        name for name, path in MODULES.items() if "torch.optim" in path.read_text(encoding="utf-8")
    }
    assert users == {"userlm_synth.training.loop"}


def test_nothing_imports_the_training_folder_by_its_place_in_the_checkout() -> None:
    for name, tree in TREES.items():
        tops = {one.split(".")[0] for one in imports(tree, name, MODULES[name])}
        assert not tops & {"training", "schemas", "recipes", "tests"}, name


def test_every_module_says_what_it_is() -> None:
    assert [name for name, tree in TREES.items() if not ast.get_docstring(tree)] == []


def test_help_is_instant_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from userlm_synth.cli import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "print('LOADED', *sorted({name.split('.')[0] for name in sys.modules}))\n"
    )
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stderr
        loaded = set(done.stdout.splitlines()[-1].split()[1:])
        assert "click" in loaded
        assert not loaded & {*HEAVY, "numpy"}
        seconds.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert min(seconds) < 0.3
