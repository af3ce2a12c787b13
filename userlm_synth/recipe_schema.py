"""The JSON Schema of recipes, made from their dataclasses, for editors and other programs.

python -m userlm_synth.recipe_schema > schemas/recipe.schema.json
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from typing import Any

from userlm_synth.recipe import Recipe
from userlm_synth.records import Record

KINDS = {str: "string", int: "integer", float: "number", bool: "boolean"}


def recipe_schema() -> Record:
    """JSON Schema (draft 2020-12) of a resolved recipe; every section may be null."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "recipe"}
    return {**head, "title": "Recipe", **_section(Recipe)}


def _section(cls: Any) -> Record:
    hints = typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)
    return {
        "description": (cls.__doc__ or "").strip(),
        "type": "object",
        "properties": {field.name: _field(hints[field.name], field) for field in fields},
        "required": [field.name for field in fields if field.default is dataclasses.MISSING],
        "additionalProperties": False,
    }


def _field(kind: Any, field: dataclasses.Field[Any]) -> Record:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kinds = [
            {"type": "null"} if k is type(None) else _field(k, field) for k in typing.get_args(kind)
        ]
        return {"anyOf": kinds}
    if dataclasses.is_dataclass(kind):
        return _section(kind)
    if typing.get_origin(kind) is dict:
        return {"type": "object", "additionalProperties": _field(typing.get_args(kind)[1], field)}
    if typing.get_origin(kind) is tuple:
        items: Record = {"type": KINDS[typing.get_args(kind)[0]]}
        if "each_of" in field.metadata:
            items["enum"] = list(field.metadata["each_of"])
        return {"type": "array", "items": items}
    if kind is str and "words" in field.metadata:
        return {"type": "string", "enum": list(field.metadata["words"])}
    names = {"min": "minimum", "max": "maximum", "above": "exclusiveMinimum", "one_of": "enum"}
    limits = {names[key]: value for key, value in field.metadata.items() if key in names}
    return {"type": KINDS[kind], **limits}


if __name__ == "__main__":
    print(json.dumps(recipe_schema(), indent=2, ensure_ascii=False))
