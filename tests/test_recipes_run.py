"""Facts about the shipped recipes: each is valid, its header's commands parse, and it trains.

A recipe that is new is taken in by itself. Every one that trains is run for three steps by the same
overrides: a toy for its base, a few generated chats for its source, intents that are there already.
Every one that only generates holds a few dialogues between scripts.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

import toys
from userlm_synth.cli import main
from userlm_synth.pipeline import trained_models
from userlm_synth.recipe import SOURCES, Recipe, Training, load_recipe, shipped_recipes
from userlm_synth.records import write_records
from userlm_synth.world import make_conversations

NAMES = sorted(shipped_recipes())
STEPS = 3


def text_of(name: str) -> str:
    return shipped_recipes()[name].read_text(encoding="utf-8")


def lookup(data: Any, path: str) -> Any:
    for key in path.split("."):
        data = data.get(key) if isinstance(data, dict) else None
    return data


def trains(name: str) -> bool:
    """Whether a recipe makes a model; the others take theirs from elsewhere."""
    data = yaml.safe_load(text_of(name))
    return any(lookup(data, one) is not None for one in ("train", "assistant.train", "personas"))


def header(name: str) -> str:
    """The comment that a recipe begins with; a line that ends in a backslash goes on."""
    lines = text_of(name).split("\n\n")[0].splitlines()
    return re.sub(r"\\\n\s*", "", "\n".join(line.removeprefix("#") for line in lines))


def commands(name: str) -> list[list[str]]:
    """The words of every command in a header; what stands after two spaces is a remark."""
    found = []
    for line in header(name).splitlines():
        command = re.split(r"\s{2,}", line.strip())[0]
        if re.match(r"userlm-synth \w|torchrun |accelerate launch ", command):
            found.append(shlex.split(command))
    return found


def program_arguments(words: list[str]) -> list[str]:
    """What our program gets of a command, behind a launcher or not."""
    start = 0 if words[0] == "userlm-synth" else words.index("userlm_synth")
    return words[start + 1 :]


def parse(arguments: list[str]) -> dict[str, Any]:
    """Arguments as the program itself parses them; a click error where it would refuse them."""
    group = main.make_context("userlm-synth", list(arguments))
    name, command, rest = main.resolve_command(group, list(arguments))
    assert isinstance(command, click.Command)
    return command.make_context(name, rest, parent=group).params


TRAINING = [name for name in NAMES if trains(name)]
GENERATING = [name for name in NAMES if not trains(name) and "\ngenerate:" in text_of(name)]
COMPARING = [name for name in NAMES if name not in TRAINING + GENERATING]


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base` and `user_lm`, both tiny."""
    folder = tmp_path_factory.mktemp("stand-ins")
    toys.trained_user_lm(folder, make_conversations(4, 0), epochs=1)  # makes base, too
    return folder


def write_chats(data: Any, path: Path) -> Path:
    """Generated chats with whatever a recipe's persona text and adapters look for in them."""
    chats = make_conversations(160, 0)
    personas = data.get("personas") or {}
    groups = list((personas.get("groups") or {}).values())
    keys = set(re.findall(r"metadata\.(\w+)", yaml.safe_dump(data)))
    for number, one in enumerate(chats):
        for key in keys:
            one["metadata"].setdefault(key, f"kind-{number % 3}")
        wanted = dict(groups[number % len(groups)]) if groups else {}
        if personas.get("by") == "user_id":
            wanted["user_id"] = f"person-{number % 3}"
        for field, values in wanted.items():
            place = one["metadata"] if field.startswith("metadata.") else one
            value = values[0] if isinstance(values, list) else values
            place[field.removeprefix("metadata.")] = value
    write_records(path, chats, "conversation")
    return path


def tiny(name: str, stand_ins: Path, chats: Path) -> list[str]:
    """The overrides that make a recipe small, the same for all; sections that are not there stay
    away."""
    data = yaml.safe_load(text_of(name))
    write_chats(data, chats)
    sections = [one for one in ("train", "assistant.train") if lookup(data, one) is not None]
    base = "base" if sections else "user_lm"  # who trains adapters alone has a user LM already
    sections += ["personas.train"] if data.get("personas") else []
    found = [
        f"conversations.source={chats}", "conversations.dedup=null",
        "conversations.workers=1", "intents=null", f"base.model={stand_ins / base}",
        "base.scratch=null", "base.train=null",
        *(f"{later}=null" for later in ("evaluate", "generate", "report", "push")),
    ]  # fmt: skip
    for section in sections:
        found += [f"{section}.max_steps={STEPS}", f"{section}.batch_tokens=2048",
                  f"{section}.micro_batch_tokens=2048", f"{section}.epochs=10",
                  f"{section}.validations=1", f"{section}.validation_conversations=2",
                  f"{section}.log_to=[]"]  # fmt: skip
    return found


def with_source(overrides: list[str], folder: Path) -> list[str]:
    """Overrides with a source that is here: the reader's own files are not."""
    key = "conversations.source="
    return [f"{key}{folder}", *(one for one in overrides if not one.startswith(key))]


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_recipe_is_valid_and_called_what_its_file_is(name: str, cli: Any) -> None:
    source = lookup(yaml.safe_load(text_of(name)), "conversations.source")
    there = source is None or source in SOURCES or source.startswith("hf://")
    own = [] if there else ["conversations.source=quickstart"]  # the reader's own file
    done = cli("recipes", "validate", name, *own)
    assert done.code == 0, done.err
    assert done.out.startswith(f"{name}: valid")
    assert load_recipe(name, own).name == Path(name).name


@pytest.mark.parametrize("name", NAMES)
def test_the_commands_in_a_recipes_header_parse(name: str, stand_ins: Path) -> None:
    lines = [program_arguments(words) for words in commands(name)]
    assert lines, "no command in the header"
    verbs = {
        **dict.fromkeys(TRAINING, ("run", "train")),
        **dict.fromkeys(GENERATING, ("generate",)),
    }
    verbs = verbs.get(name, ("evaluate",))
    assert any(line[0] in verbs and line[1] == name for line in lines)
    for line in lines:
        given = parse(line)
        if line[0] in ("run", "train"):
            load_recipe(given["recipe"], with_source(list(given["overrides"]), stand_ins))
    for override in re.findall(r"\b(?:train|base|conversations)\.[\w.]+=[^\s),;]+", header(name)):
        load_recipe(name, with_source([override], stand_ins))


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_that_needs_the_hub_says_what_it_costs(name: str) -> None:
    recipe = load_recipe(name, ["conversations.source=quickstart"])
    if not (recipe.base and recipe.base.model and "@" in recipe.base.model):
        return  # made on the spot, or somebody's own
    said = " ".join(header(name).split())
    assert "torchrun --standalone --nproc-per-node" in said
    assert re.search(r"\d h\b|hours", said)
    assert "GB" in said
    assert "USD" in said
    assert "worked out, not measured" in said.lower()


@pytest.mark.parametrize("name", NAMES)
def test_a_base_from_the_hub_is_pinned_to_a_commit(name: str) -> None:
    data = yaml.safe_load(text_of(name))
    for place in ("base.model", "conversations.source"):
        value = str(lookup(data, place))
        if place == "conversations.source" and not value.startswith("hf://"):
            continue
        if re.fullmatch(r"(hf://datasets/)?[\w.-]+/[\w.-]+(@.*)?", value) and "runs/" not in value:
            assert re.search(r"@[0-9a-f]{40}$", value), f"{place}: {value}"


@pytest.mark.parametrize("name", TRAINING)
def test_a_shipped_recipe_trains(name: str, stand_ins: Path, tmp_path: Path, cli: Any) -> None:
    overrides = tiny(name, stand_ins, tmp_path / "chats.jsonl")
    done = cli("train", name, *overrides, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    recipe = load_recipe(name, overrides)
    models = trained_models(recipe)
    assert models
    for stage, called in models.items():
        folder = tmp_path / "run" / stage
        assert f"{called}: {folder}" in done.out
        logs = sorted(folder.rglob("training_log.jsonl"))
        assert logs, "nothing was trained"
        for log in logs:
            lines = [json.loads(line) for line in log.read_text().splitlines()]
            losses = [line["loss"] for line in lines if "loss" in line]
            assert len(losses) == STEPS
            assert all(math.isfinite(loss) for loss in losses)
    check_intents(recipe, tmp_path / "run")


def check_intents(recipe: Recipe, run: Path) -> None:
    """A user LM's validation is with and without the intents; an assistant's knows none."""
    for stage, both in (("user_lm", True), ("assistant_lm", False)):
        log = run / stage / "training_log.jsonl"
        if log.exists():
            lines = [json.loads(line) for line in log.read_text().splitlines()]
            (found,) = [line["validation"] for line in lines if "validation" in line]
            assert ("perplexity_no_intent" in found) == both, stage


@pytest.mark.parametrize("name", GENERATING)
def test_a_recipe_that_only_generates_needs_models_and_intents_alone(
    name: str, tmp_path: Path, cli: Any
) -> None:
    said = {
        "user": [
            "please plan a day in Porto",
            "with two kids, and no museums",
            "what does it cost",
        ],
        "assistant": ["Sure! Here is a plan."],
    }
    for side, script in said.items():
        (tmp_path / f"{side}.json").write_text(json.dumps(script))
    intents = [{"id": f"i{n}", "intent": f"plan {n} days in Porto"} for n in range(3)]
    write_records(tmp_path / "intents.jsonl", intents, "intent")
    done = cli(
        "generate", name, "--user", f"scripted:{tmp_path / 'user.json'}",
        "--assistant", f"scripted:{tmp_path / 'assistant.json'}",
        "--intents", tmp_path / "intents.jsonl", "--num", 4, "--out", tmp_path / "out",
        "generate.max_turns=3",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "4 accepted; rejected: none" in done.out


@pytest.mark.parametrize("name", GENERATING)
def test_a_recipe_without_intents_is_valid_but_does_not_run(
    name: str, tmp_path: Path, cli: Any
) -> None:
    load_recipe(name)
    for command in ("run", "generate"):
        done = cli(command, name, "--out", tmp_path / command)
        assert done.code == 1
        assert "intents" in done.error


@pytest.mark.parametrize("name", COMPARING)
def test_a_recipe_that_compares_simulators_does_with_stand_ins(
    name: str, stand_ins: Path, tmp_path: Path, cli: Any
) -> None:
    write_records(tmp_path / "test.jsonl", make_conversations(3, 1), "conversation")
    models = {label: {"model": str(stand_ins / "user_lm")} for label in ("usp-8b", "mine")}
    done = cli(
        "evaluate", name, f"evaluate.models={json.dumps(models)}", "evaluate.max_tokens=8",
        "evaluate.bootstrap=100", "--conversations", tmp_path / "test.jsonl",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.code == 0, done.err
    rows = json.loads((tmp_path / "out/evaluation.json").read_text())["results"]
    assert [row["label"] for row in rows] == ["usp-8b", "mine", "human"]


@pytest.mark.parametrize("name", COMPARING)
def test_a_recipe_without_conversations_is_evaluated_on_a_file_and_not_run(
    name: str, tmp_path: Path, cli: Any
) -> None:
    done = cli("run", name, "--out", tmp_path / "run")
    assert done.code == 1
    assert "userlm-synth evaluate RECIPE --conversations FILE" in done.error


def test_train_refuses_a_recipe_that_trains_nothing(cli: Any) -> None:
    said = cli("train", "coffee", "conversations.source=quickstart", "train=null", "evaluate=null")
    assert said.error == (
        "error: coffee: has nothing to train (a train or an assistant.train section)"
    )


def test_an_assistant_to_train_needs_conversations_and_a_base(tmp_path: Path, cli: Any) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("name: r\nassistant: {train: {}}\n")
    assert cli("train", path).errors == [
        f"error: {path}: conversations: is missing; assistant.train needs it",
        f"error: {path}: base: is missing; assistant.train needs it",
    ]


def test_the_chats_of_a_run_are_divided_as_before_when_they_are_a_source_again(
    tmp_path: Path, cli: Any
) -> None:
    first = cli("prepare", "--source", "quickstart", "conversations.count=200",
                "conversations.dedup=null", "--out", tmp_path / "first")  # fmt: skip
    assert first.code == 0, first.err
    (tmp_path / "chats").mkdir()
    for file in (tmp_path / "first").glob("*.jsonl"):
        (tmp_path / "chats" / file.name).write_bytes(file.read_bytes())
    again = cli("prepare", "--source", tmp_path / "chats", "conversations.clean=null",
                "conversations.dedup=null", "--out", tmp_path / "again")  # fmt: skip
    assert again.code == 0, again.err
    for split in ("train", "validation", "test"):
        before = (tmp_path / "first" / f"{split}.jsonl").read_bytes()
        assert before
        assert (tmp_path / "again" / f"{split}.jsonl").read_bytes() == before


def test_the_page_on_training_has_every_field_of_train_with_its_default() -> None:
    page = (Path(__file__).resolve().parent.parent / "docs" / "training.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", page, re.MULTILINE))
    fields = dataclasses.fields(Training)
    assert list(rows) == [field.name for field in fields]
    for field in fields:
        said = {"none": None, "true": True, "false": False}.get(rows[field.name], rows[field.name])
        default = None if field.default == () else field.default
        known = isinstance(default, (bool, str)) or default is None
        assert (said if known else float(str(said))) == default, field.name
