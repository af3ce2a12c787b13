"""Facts about recipes: YAML's traps, overrides, every fault at once, what the hash means."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from userlm_synth.errors import Problems, UserError
from userlm_synth.recipe import Recipe, Training, build_recipe, load_recipe, shipped_recipes

MODELS = {"name": "r", "conversations": {"source": "quickstart"}, "base": {"model": "org/model"}}


def faults(data: dict[str, Any], *overrides: str) -> list[str]:
    with pytest.raises(Problems) as caught:
        build_recipe(data, overrides)
    return caught.value.lines


def test_a_number_that_yaml_reads_as_text_is_a_number() -> None:
    data = yaml.safe_load("{learning_rate: 3e-4, epochs: '2', max_length: 1e3, clip: .5}")
    assert data["learning_rate"] == "3e-4"  # the trap
    train = build_recipe({**MODELS, "train": data}).train
    assert train == Training(learning_rate=3e-4, epochs=2.0, max_length=1000, clip=0.5)
    assert isinstance(train.max_length, int)


def test_a_text_that_yaml_reads_as_something_else_is_text() -> None:
    data = yaml.safe_load("{name: no, report: {title: 2026}, generate: {guardrails: "
                          "{first_token_filter: [yes, 7, i]}}}")  # fmt: skip
    assert data["name"] is False  # the trap
    data["generate"] |= {"user": "org/user", "intents": __file__}
    data["assistant"] = {"model": "org/assistant"}
    recipe = build_recipe(data)
    assert recipe.name == "no"
    assert recipe.report
    assert recipe.report.title == "2026"
    assert recipe.generate
    assert recipe.generate.guardrails.first_token_filter == ("yes", "7", "i")


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"epochs": "many"}, "train.epochs: 'many' is not a number"),
        ({"epochs": True}, "train.epochs: True is not a number"),
        ({"epochs": "nan"}, "train.epochs: 'nan' is not a number"),
        ({"epochs": None}, "train.epochs: None is not a number"),
        ({"epochs": 0}, "train.epochs: 0.0 is not above 0.0"),
        ({"max_length": 2.5}, "train.max_length: 2.5 is not a whole number"),
        ({"max_length": 8}, "train.max_length: 8 is below 32"),
        ({"intent_dropout": 1.5}, "train.intent_dropout: 1.5 is above 1.0"),
        ({"precision": "fp8"}, "train.precision: 'fp8' is not one of auto, fp32, bf16"),
        ({"precision": ["fp32"]}, "train.precision: ['fp32'] is not text"),
        ([1], "train: is a section of keys, not [1]"),
        ("fast", "train: is a section of keys, not 'fast'"),
        ({"epoch": 3}, "train.epoch: unknown key; did you mean 'epochs'?"),
    ],
)
def test_a_wrong_value_is_named_with_its_dotted_path(section: Any, said: str) -> None:
    assert faults({**MODELS, "train": section}) == [said]


def test_every_fault_is_listed_at_once_with_its_dotted_path(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.jsonl")
    data = {
        "name": "r",
        "trian": {},
        "conversations": {"source": missing, "count": "some", "split": "user"},
        "base": {"model": "./nowhere", "scratch": {"hiden": 3}},
        "assistant": {"model": "prompted:hf:./gone"},
        "generate": {"num": 0, "intents": missing, "guardrails": {"attempts": "x", "repeats": 1}},
    }
    assert faults(data) == [
        "trian: unknown key; did you mean 'train'?",
        "conversations.split: unknown key; did you mean 'split_by'?",
        f"conversations.source: {missing}: no such file (datasets on the Hub are "
        "hf://datasets/ORG/NAME[@REVISION])",
        "conversations.count: 'some' is not a whole number",
        "base.model: ./nowhere: no such folder",
        "base.scratch.hiden: unknown key; did you mean 'hidden'?",
        "assistant.model: prompted:hf:./gone: no such folder",
        "generate.num: 0 is below 1",
        f"generate.intents: {missing}: no such file",
        "generate.guardrails.repeats: unknown key; did you mean 'no_repeats'?",
        "generate.guardrails.attempts: 'x' is not a whole number",
    ]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"base": {"model": "a", "scratch": {}}}, "base: give either model"),
        ({"base": {"scratch": {}}}, "base.train: is missing"),
        ({"base": {"scratch": {"hidden": 9, "heads": 3}, "train": {}}}, "base.scratch.hidden:"),
        ({"assistant": {}}, "assistant: give either model"),
        ({"conversations": {"source": "quickstart", "train": 0.5}}, "conversations: train, valid"),
        ({"conversations": {"source": "quickstart", "split_by": "age"}}, "conversations.split_by"),
        ({"train": {}}, "conversations: is missing; the train section needs it"),
        ({"report": {}}, "generate: is missing; the report section needs it"),
        ({"generate": {}}, "train: is missing; the generate section needs it"),
        ({"generate": {}, "assistant": {"model": "m"}}, "train: is missing; the generate section"),
        ({"name": None}, "name: None is not text"),
    ],
)
def test_sections_that_do_not_go_together_are_refused(data: dict[str, Any], said: str) -> None:
    assert faults({"name": "r", **data})[0].startswith(said)


def test_a_recipe_without_a_name_says_so() -> None:
    assert faults({}) == ["name: is missing"]


def test_overrides_reach_into_sections_and_make_them() -> None:
    recipe = build_recipe(
        MODELS, ["train.epochs=3", "seed=7", "report.title=a = b", "generate.user=m",
                 "assistant.model=openai:m@http://localhost:1/v1", "base.model=org/model@v2"],
    )  # fmt: skip
    assert recipe.train == Training(epochs=3.0)
    assert recipe.seed == 7
    assert recipe.report
    assert recipe.report.title == "a = b"
    assert recipe.base
    assert recipe.base.model == "org/model@v2"
    assert "train" not in MODELS  # the data given is not changed


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.epochs", "'train.epochs': an override is written key=value"),
        ("=3", "'=3': an override is written key=value"),
        ("train.epohcs=3", "train.epohcs: unknown key; did you mean 'epochs'?"),
        ("train=3", "train: is a section of keys, not 3"),
        ("train.epochs=", "train.epochs: None is not a number"),
    ],
)
def test_an_override_with_a_fault_is_named(override: str, said: str) -> None:
    assert faults(MODELS, override)[0].startswith(said)


def test_an_empty_section_has_its_defaults_and_a_null_one_is_not_there() -> None:
    assert build_recipe({**MODELS, "train": {}}).train == Training()
    assert build_recipe({**MODELS, "train": None}).train is None
    assert build_recipe({**MODELS, "train": {}}, ["train=null"]).train is None


def test_a_resolved_recipe_is_a_recipe_with_the_same_hash(tmp_path: Path) -> None:
    recipe = load_recipe("quickstart", ["generate.num=3"])
    path = tmp_path / "resolved.yaml"
    path.write_text(yaml.safe_dump(recipe.as_dict()))
    again = load_recipe(str(path))
    assert again == recipe
    assert again.hash == recipe.hash
    bare = build_recipe({"name": "bare"})
    assert build_recipe(bare.as_dict()) == bare


@given(st.permutations(["seed", "conversations", "base", "train"]))
def test_the_hash_does_not_depend_on_the_order_of_keys(order: list[str]) -> None:
    data = {**MODELS, "seed": 4, "train": {"epochs": 2}}
    assert build_recipe({k: data[k] for k in order} | {"name": "r"}).hash == build_recipe(data).hash


def test_the_hash_changes_with_any_value() -> None:
    base = build_recipe({**MODELS, "train": {}})
    changed = [
        dataclasses.replace(base.train, **{f.name: "bf16" if f.type == "str" else 0.125})
        for f in dataclasses.fields(Training)
    ]
    hashes = {base.hash} | {dataclasses.replace(base, train=one).hash for one in changed}
    assert len(hashes) == 1 + len(changed)


def test_a_default_written_out_does_not_change_the_hash() -> None:
    assert build_recipe({**MODELS, "train": {"clip": 1}}).hash == \
        build_recipe({**MODELS, "train": {}}).hash  # fmt: skip


def test_recipes_cannot_be_changed() -> None:
    recipe = build_recipe(MODELS)
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_shipped_recipe_is_valid(name: str, tmp_path: Path) -> None:
    data = yaml.safe_load(shipped_recipes()[name].read_text(encoding="utf-8"))
    overrides = []
    stand_in = tmp_path / "chats.jsonl"
    stand_in.write_text("{}\n")
    for section, key in (("conversations", "source"), ("generate", "intents")):
        value = (data.get(section) or {}).get(key)  # a file that its reader has, and we have not
        if value and value != "quickstart" and not Path(value).is_file():
            overrides.append(f"{section}.{key}={stand_in}")
    recipe = load_recipe(name, overrides)
    assert isinstance(recipe, Recipe)
    first = shipped_recipes()[name].read_text(encoding="utf-8").split("\n\n")[0]
    assert first.startswith("# ")
    assert "userlm-synth " in first, "a recipe's header says the command that runs it"


def test_there_is_a_quickstart() -> None:
    assert "quickstart" in shipped_recipes()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: [", ":1: not YAML"),
        ("- a\n- b\n", "a recipe is a mapping of sections"),
        ("", "a recipe is a mapping of sections"),
        ("a: !!python/object/apply:os.system ['true']", "not YAML"),
        (b"name: \xff", "not YAML"),
    ],
)
def test_a_file_that_is_no_recipe_is_one_clear_error(
    tmp_path: Path, text: str | bytes, said: str
) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as caught:
        load_recipe(str(path))
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_lists_the_shipped_recipes() -> None:
    with pytest.raises(UserError, match=r"no recipe named 'quikstart'; shipped: .*quickstart"):
        load_recipe("quikstart")
    with pytest.raises(UserError, match=r"nowhere\.yaml: no such recipe file"):
        load_recipe("nowhere.yaml")
