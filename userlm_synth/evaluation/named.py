"""`evaluate` as it is typed: the simulators of a recipe and of the command line, by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from userlm_synth.errors import UserError
from userlm_synth.evaluation.evaluate import evaluate
from userlm_synth.recipe import Evaluate, Simulator, build_recipe, load_recipe
from userlm_synth.records import Record


def evaluate_named(
    name: str | None,
    models: Sequence[str],
    overrides: Sequence[str],
    files: Sequence[Path],
    out: Path,
) -> Record:
    """`evaluate`: a recipe's simulators and those that are named, on files of conversations."""
    if not (name or models):
        raise UserError("evaluate: name a MODEL, or a recipe with evaluate.models")
    named = dict(zip(labels(models), models, strict=True))
    if name:
        recipe = load_recipe(name, overrides)
    else:
        given = {label: {"model": model} for label, model in named.items()}
        recipe = build_recipe({"name": "evaluate", "evaluate": {"models": given}}, overrides)
    settings = recipe.evaluate or Evaluate()
    simulators = dict(settings.models or {})
    for label, model in named.items():
        if simulators.setdefault(label, Simulator(model)).model != model:
            raise UserError(f"evaluate.models.{label}: a MODEL has that name too; rename it")
    if not simulators:
        raise UserError(f"{name}: evaluate.models: is missing; name simulators there, or a MODEL")
    return evaluate(simulators, files, out, settings, seed=recipe.seed)


def labels(specs: Sequence[str]) -> list[str]:
    """What tables call models: a folder's own name or a server's model, as long as no two are
    called alike; else what was typed."""
    short = []
    for spec in specs:
        prompted = "prompted:" * spec.startswith("prompted:")
        kind, colon, rest = spec.removeprefix("prompted:").rpartition("@http")
        inner = (kind if colon else rest).removeprefix("hf:").removeprefix("openai:")
        is_folder = Path(inner).is_dir()
        short.append(prompted + (Path(inner).resolve().name if is_folder else inner))
    return [
        label if short.count(label) == 1 and label != "human" else spec
        for label, spec in zip(short, specs, strict=True)
    ]
