"""Reading a recipe: YAML and overrides into dataclasses, every problem with its dotted path.

Values are coerced by the declared type, because YAML reads `3e-4` as a string and `no` as False;
unknown keys are refused.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from userlm_synth.errors import Problems, UserError
from userlm_synth.recipe.personas import persona_problems
from userlm_synth.recipe.sections import SOURCES, Recipe
from userlm_synth.resources import data_folder


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name (`quickstart`, `coffee`, ...)."""
    folder = data_folder("recipes")
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for path in sorted(folder.rglob("*.yaml"))
    }


def find_recipe(name: str) -> Path:
    """The file of a shipped recipe's name or of a path."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UserError(f"{name}: no such recipe file")
        return path
    shipped = shipped_recipes()
    if name in shipped:
        return shipped[name]
    raise UserError(
        f"no recipe named {name!r}; shipped: {', '.join(shipped)} (or name a .yaml file)"
    )


def load_recipe(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """A recipe by shipped name or path, with `train.epochs=3` overrides, checked in full."""
    path = find_recipe(name)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or "not YAML"
        raise UserError(f"{path}{line}: not YAML: {what}") from None
    except (UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{path}: not YAML: {error}") from None
    if not isinstance(data, dict):
        raise UserError(
            f"{path}: a recipe is a mapping of sections; see `userlm-synth recipes list`"
        )
    return build_recipe(data, overrides, str(path))


def build_recipe(
    data: Mapping[str, Any], overrides: Iterable[str] = (), where: str = "", *, whole: bool = True
) -> Recipe:
    """A `Recipe` from plain data; raises `Problems` with every fault and its dotted path.

    `whole` False: the settings of one command, without the sections that a run needs beside them.
    """
    problems: list[str] = []
    merged = _deep_copy(data)
    for override in overrides:
        _apply_override(merged, override, problems)
    recipe = _build(Recipe, merged, "", problems)
    if not problems and whole:
        problems += _whole_recipe_problems(recipe)
    if problems:
        opening = f"{where}: " if where else ""
        raise Problems(opening + problem for problem in problems)
    return recipe  # type: ignore[no-any-return]


def _deep_copy(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _deep_copy(value) for key, value in data.items()}
    return list(data) if isinstance(data, list) else data


def _apply_override(data: dict[str, Any], override: str, problems: list[str]) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        problems.append(f"{override!r}: an override is written key=value, as in train.epochs=3")
        return
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    place = data
    *parents, last = key.split(".")
    for parent in parents:
        if not isinstance(place.get(parent), dict):
            place[parent] = {}
        place = place[parent]
    place[last] = value


def _build(cls: Any, data: Any, path: str, problems: list[str]) -> Any:
    """An instance of dataclass `cls`, or None with something appended to `problems`."""
    if not isinstance(data, dict):
        problems.append(f"{path}: is a section of keys, not {data!r}")
        return None
    fields = {item.name: item for item in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    before = len(problems)
    for key in data:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(fields)}"
            problems.append(f"{_join(path, key)}: unknown key; {hint}")
    values: dict[str, Any] = {}
    for name, item in fields.items():
        if name in data:
            where, sound = _join(path, name), len(problems)
            given = _with_defaults(item.default, data[name])
            values[name] = _coerce(hints[name], given, where, problems)
            if len(problems) == sound:
                problems += [f"{where}: {fault}" for fault in _limit_faults(item, values[name])]
        elif item.default is dataclasses.MISSING:
            problems.append(f"{_join(path, name)}: is missing")
    return cls(**values) if len(problems) == before else None


def _with_defaults(default: Any, given: Any) -> Any:
    """A section with what its field's own default sets otherwise than its class does: adapters
    have another learning rate, also where their recipe sets the epochs alone."""
    if not (dataclasses.is_dataclass(default) and isinstance(given, dict)):
        return given
    own = {item.name: getattr(default, item.name) for item in dataclasses.fields(default)}
    usual = {item.name: item.default for item in dataclasses.fields(default)}
    return {**{name: value for name, value in own.items() if value != usual[name]}, **given}


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _coerce(kind: Any, value: Any, path: str, problems: list[str]) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None:  # a section that is null is not there: evaluate=null leaves it out
            return None
        if float in arguments and str in arguments:  # a number, or one of some words
            number = _number(value)
            return str(value) if number is None else number
        inner = next(item for item in arguments if item is not type(None))
        return _coerce(inner, value, path, problems)
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, path, problems)
    if origin is dict:
        if not isinstance(value, dict):
            problems.append(f"{path}: is a section of keys, not {value!r}")
            return None
        return {
            str(key): _coerce(arguments[1], item, _join(path, key), problems)
            for key, item in value.items()
        }
    if origin is tuple:
        items = value if isinstance(value, list) else [value]
        return tuple(_coerce(arguments[0], item, path, problems) for item in items)
    if kind is bool and isinstance(value, bool):
        return value
    if kind is str and isinstance(value, str):
        return value
    if kind is str and value is not None and not isinstance(value, (bool, dict, list)):
        return str(value)  # a name such as 2026 is text
    if kind is str and isinstance(value, bool):
        return "yes" if value else "no"
    number = _number(value)
    if kind is int and number is not None and number == int(number):
        return int(number)
    if kind is float and number is not None:
        return number
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    problems.append(f"{path}: {value!r} is not {names.get(kind, kind)}")
    return None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _limit_faults(item: dataclasses.Field[Any], value: Any) -> Iterator[str]:
    limits = item.metadata
    if value is None:
        return
    if isinstance(value, str) and "words" in limits:
        if value not in limits["words"]:
            yield f"{value!r} is neither a number nor one of {', '.join(limits['words'])}"
        return
    for each in value if "each_of" in limits else ():
        if each not in limits["each_of"]:
            yield f"{each!r} is not one of {', '.join(limits['each_of'])}"
    if "min" in limits and value < limits["min"]:
        yield f"{value} is below {limits['min']}"
    if "above" in limits and value <= limits["above"]:
        yield f"{value} is not above {limits['above']}"
    if "max" in limits and value > limits["max"]:
        yield f"{value} is above {limits['max']}"
    if limits.get("source"):
        yield from _source_faults(value)
    if "one_of" in limits and value not in limits["one_of"]:
        yield f"{value!r} is not one of {', '.join(limits['one_of'])}"
    if limits.get("path") and value != limits.get("or") and not Path(value).is_file():
        yield f"{value}: no such file"
    if limits.get("spec"):
        yield from _spec_faults(value)


def _source_faults(source: str) -> Iterator[str]:
    """Neither the name of a source, nor a place on the Hub, nor a file or folder that is there."""
    if source in SOURCES or source.startswith("hf://datasets/") or Path(source).exists():
        return
    if "/" in source or "." in source or source.startswith("hf:"):
        yield f"{source}: no such file (datasets on the Hub are hf://datasets/ORG/NAME[@REVISION])"
        return
    near = difflib.get_close_matches(source, SOURCES, 1, 0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(SOURCES)}"
    yield f"{source}: neither a file nor a source by that name; {hint}"


def _spec_faults(spec: str) -> Iterator[str]:
    """A model SPEC that points at a folder or file which is not there."""
    asked = spec.removeprefix("prompted:")
    kind, _, target = asked.partition(":")
    if kind == "scripted":
        if not Path(target).is_file():
            yield f"{spec}: no such file"
        return
    target = target if kind in ("hf", "vllm") else asked
    if target.startswith(("./", "../", "/", "~")) and not Path(target).expanduser().is_dir():
        yield f"{spec}: no such folder"


def _whole_recipe_problems(recipe: Recipe) -> Iterator[str]:
    """What one field alone cannot show."""
    if recipe.base and (recipe.base.model is None) == (recipe.base.scratch is None):
        yield "base: give either model (a Hub id or folder) or scratch (a tiny model made here)"
    if recipe.base and recipe.base.scratch and not recipe.base.train:
        yield "base.train: is missing (a model made from scratch has to be trained)"
    shape = recipe.base.scratch if recipe.base else None
    if shape and shape.hidden % (2 * shape.heads):
        yield "base.scratch.hidden: must be a multiple of twice base.scratch.heads"
    side = recipe.assistant
    if side and (side.model is None) == (side.train is None):
        yield "assistant: give either model (a SPEC) or train (an assistant LM from the same base)"
    for other in ("conversations", "base") if side and side.train else ():
        if not getattr(recipe, other):
            yield f"{other}: is missing; assistant.train needs it"
    parts = recipe.conversations
    if parts and not math.isclose(parts.train + parts.validation + parts.test, 1.0, abs_tol=1e-6):
        yield "conversations: train, validation and test must sum to 1"
    if parts and not (parts.split_by in ("user", "conversation") or "metadata." in parts.split_by):
        yield "conversations.split_by: is user, conversation or metadata.KEY"
    needs = {
        "train": ("conversations", "base"),
        "evaluate": ()
        if recipe.evaluate and recipe.evaluate.models
        else ("conversations", "train"),
        "report": ("generate",),
        "push": ("generate",),
    }
    if not (recipe.generate and recipe.generate.user):
        needs["generate"] = ("train", "assistant")
    for section, others in needs.items():
        for other in others:
            if getattr(recipe, section) and not getattr(recipe, other):
                yield f"{other}: is missing; the {section} section needs it"
    money = recipe.intents
    if money and money.budget is not None and None in (money.price_in, money.price_out):
        yield "intents.budget: needs price_in and price_out (USD a million tokens)"
    yield from persona_problems(recipe)
