"""The shipped schema of recipes says what the dataclasses say."""

from __future__ import annotations

import json

import pytest

from userlm_synth.recipe import load_recipe, shipped_recipes
from userlm_synth.recipe_schema import recipe_schema
from userlm_synth.records import file_problems, load_schema, record_problems


def test_the_shipped_file_is_made_from_the_dataclasses():
    made = json.loads(json.dumps(recipe_schema()))
    assert load_schema("recipe") == made, (
        "run python -m userlm_synth.recipe_schema > schemas/recipe.schema.json"
    )


@pytest.mark.parametrize("name", shipped_recipes())
def test_resolved_recipes_are_valid_and_faults_are_found(name, tmp_path):
    chats = tmp_path / "chats.jsonl"
    chats.write_text("{}")
    recipe = load_recipe(name, [f"conversations.source={chats}"]).as_dict()
    assert record_problems(recipe, "recipe") == []
    recipe["conversations"]["count"] = "many"
    assert "conversations.count" in record_problems(recipe, "recipe")[0]


def test_validate_knows_the_recipe_of_a_run_folder(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("name: x\nseed: no\n")
    count, problems = file_problems(path)
    assert count == 1
    assert problems
    assert problems[0].startswith(f"{path}: seed: ")
