"""Facts about persona text, groups of people, and models that are their own people's.

The science at the end is on the quickstart's world, whose users write in six styles: a model that
is shown persona text, one with an adapter and one that went on with a user's own logs are each
better on their own people's held-out turns than the general one, which is better on others'.
Conversations there are cut to the opening turn, without an intent, so that nothing but the person
tells how it is written.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import userlm_synth.world
from toys import conversation
from userlm_synth.conversations import prepare
from userlm_synth.errors import Problems
from userlm_synth.evaluation.personas import compare_adapters
from userlm_synth.evaluation.scoring import Model, score
from userlm_synth.recipe import (
    Conversations,
    Personas,
    PersonaText,
    Training,
    build_recipe,
    groups_of,
    members,
)
from userlm_synth.recipe.personas import FOLDER, text_at
from userlm_synth.records import Record, read_records, write_records
from userlm_synth.training.adapters import train_adapters
from userlm_synth.training.train import train_on_turns
from userlm_synth.world import make_conversations


def chat(number: int = 0, user: str | None = None, **metadata: Any) -> Record:
    return {**conversation("hi", number=number), "user_id": user, "metadata": metadata}


# ---- persona text -------------------------------------------------------------------------------


def test_a_template_is_filled_from_the_records_own_fields() -> None:
    record = chat(user="ann", style="terse", home={"town": " Leeds "}, age=30, happy=True)
    template = "{user_id} ({language}): {metadata.style}, {metadata.age}, {metadata.home.town}"
    assert PersonaText(template).of(record) == ("ann (en): terse, 30, Leeds", None)
    assert PersonaText("happy: {metadata.happy}; {{so}}").of(record) == ("happy: yes; {so}", None)
    assert PersonaText("The same for all.").of(record) == ("The same for all.", None)


@pytest.mark.parametrize("value", [None, "", "  ", [1], {"a": 1}])
def test_a_record_without_the_field_gets_no_text_and_the_field_is_named(value: Any) -> None:
    text = PersonaText("{language} {metadata.style}")
    assert text.of(chat(style=value)) == (None, "metadata.style")
    assert text.of(chat()) == (None, "metadata.style")
    assert PersonaText("{metadata.style.of}").of(chat(style="x")) == (None, "metadata.style.of")


plain = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
keys = st.sampled_from(["user_id", "language", "metadata.a", "metadata.b.c"])
RICH = chat(user="u", a="{x}", b={"c": "%s"})


@given(st.lists(st.tuples(plain, keys)), plain)
def test_a_template_is_its_text_with_the_values_in_their_places(
    parts: list[tuple[str, str]], end: str
) -> None:
    template, wanted = "", ""
    for text, key in parts:
        template += text.replace("{", "{{").replace("}", "}}") + f"{{{key}}}"
        wanted += text + str(text_at(RICH, key))
    template += end.replace("{", "{{").replace("}", "}}")
    assert PersonaText(template).of(RICH) == (wanted + end, None)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{style}", "{style} is not a field; there are {user_id}, {language}, {source}, "
                    "{metadata.KEY}"),
        ("{metadata}", "{metadata} is not a field"),
        ("{metadata.}", "{metadata.} is not a field"),
        ("{metadata.a!r}", "{metadata.a!r} is not a field"),
        ("{user_id:>9}", "{user_id:>9} is not a field"),
        ("{user_id.x}", "{user_id.x} is not a field"),
        ("{}", "{} is not a field"),
        ("so { far", "expected '}' before end of string"),
        ("so far }", "Single '}' encountered in format string"),
    ],
)  # fmt: skip
def test_a_template_of_an_unknown_form_is_a_fault_of_the_recipe(template: str, said: str) -> None:
    with pytest.raises(Problems) as caught:
        build_recipe({"name": "r", "conversations": {"source": "quickstart", "persona": template}})
    assert len(caught.value.lines) == 1
    assert caught.value.lines[0].startswith(f"conversations.persona: {said}")


@pytest.mark.parametrize("clean", [{}, None])
def test_prepare_writes_personas_where_there_are_none_and_counts_the_rest(
    tmp_path: Path, clean: Any
) -> None:
    said = ("a small latte please", "any tea today", "two cups to go", "is it open now")
    rows = [{**chat(number, style="terse"), "messages": conversation(text)["messages"]}
            for number, text in enumerate(said)]  # fmt: skip
    rows[1]["persona"], rows[2]["persona"], rows[3]["metadata"] = "A nurse.", " ", {}
    write_records(tmp_path / "chats.jsonl", rows, "conversation")
    found = build_recipe(
        {"name": "r", "conversations": {
            "source": str(tmp_path / "chats.jsonl"), "clean": clean, "dedup": None,
            "persona": "Writes in a {metadata.style} way.", "train": 1, "validation": 0, "test": 0,
        }}
    )  # fmt: skip
    assert found.conversations
    prepare(found.conversations, tmp_path / "out", 0)
    written = read_records(tmp_path / "out" / "train.jsonl", "conversation")
    text = "Writes in a terse way."
    assert [one["persona"] for one in written] == [text, "A nurse.", text, None]
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    (step,) = (one for one in card["steps"] if one["step"] == "persona")
    assert step["dropped"] == {}
    assert step["changed"] == {
        "persona written": 2, "persona given by the source": 1,
        "no persona, as there is no metadata.style": 1,
    }  # fmt: skip


def test_personal_data_in_a_persona_is_redacted_too(tmp_path: Path) -> None:
    write_records(tmp_path / "chats.jsonl", [chat(user="ann.lee@example.com")], "conversation")
    settings = Conversations(
        source=str(tmp_path / "chats.jsonl"), persona="Is {user_id}.", redact=True, train=1.0,
        validation=0.0, test=0.0,
    )  # fmt: skip
    prepare(settings, tmp_path / "out", 0)
    (written,) = read_records(tmp_path / "out" / "train.jsonl", "conversation")
    assert written["persona"].startswith("Is ")
    assert "ann.lee" not in written["persona"]


# ---- groups -------------------------------------------------------------------------------------

values = st.sampled_from(["a", "b", "Ä", "A", None, True, 3])
records = st.lists(
    st.builds(chat, st.integers(0, 99), st.sampled_from(["a", "b", None]), x=values, y=values),
    max_size=12,
)
filters = st.dictionaries(
    st.sampled_from(["user_id", "metadata.x", "metadata.y"]),
    st.lists(st.sampled_from(["a", "b", "Ä", "yes", "3"]), min_size=1).map(tuple),
    min_size=1,
)


@given(records, st.dictionaries(st.sampled_from(["one", "two"]), filters, min_size=1))
def test_the_members_of_a_group_match_all_of_its_filters(
    chats: list[Record], given: dict[str, dict[str, tuple[str, ...]]]
) -> None:
    groups = groups_of(Personas(groups=given), chats)
    assert members(groups, chats) == {
        name: [
            one
            for one in chats
            if all(text_at(one, path) in allowed for path, allowed in wanted.items())
        ]
        for name, wanted in given.items()
    }


@given(records, st.sampled_from(["user_id", "metadata.x"]))
def test_by_makes_one_group_of_every_value_and_leaves_nobody_out(
    chats: list[Record], path: str
) -> None:
    groups = groups_of(Personas(by=path), chats)
    found = members(groups, chats)
    known = [one for one in chats if text_at(one, path) is not None]
    assert sum(map(len, found.values())) == len(known)
    assert all(len({text_at(one, path) for one in some}) == 1 for some in found.values())


@given(st.lists(st.text(min_size=1), unique=True))
def test_names_of_adapters_are_folders_of_their_own_on_every_file_system(ids: list[str]) -> None:
    chats = [chat(user=one) for one in ids]
    names = [group.name for group in groups_of(Personas(by="user_id"), chats)]
    assert len(names) == len({text_at(one, "user_id") for one in chats} - {None})
    assert len({name.casefold() for name in names}) == len(names)
    assert all(FOLDER.fullmatch(name) for name in names)
    assert groups_of(Personas(by="user_id"), [chat(user="ann_1.x")])[0].name == "ann_1.x"


# ---- in a recipe --------------------------------------------------------------------------------

GOOD = {
    "name": "r", "conversations": {"source": "quickstart"}, "base": {"model": "org/user-lm"},
    "personas": {"by": "metadata.style"},
}  # fmt: skip
GIVE = "personas: give either by (user_id or metadata.KEY) or groups (named filters)"
NAMES = "user_id, language, source, metadata.KEY"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["personas.by=null"], [GIVE]),
        (["personas.groups={a: {user_id: x}}"], [GIVE]),
        (["conversations=null"],
         ["conversations: is missing; the personas section needs it"]),
        (["base=null"],
         ["personas: needs a user LM: a train section, or base.model that is one already"]),
        (["personas.by=style"], [f"personas.by: 'style' is not a field; there are {NAMES}"]),
        (["personas.by=user_id"],
         ["personas.by: the splits divide by user_id too, so nobody who is trained on has "
          "held-out turns; set conversations.split_by, to conversation for example"]),
        (["conversations.split_by=metadata.style"],
         ["personas.by: the splits divide by metadata.style too, so nobody who is trained on has "
          "held-out turns; set conversations.split_by, to conversation for example"]),
        (["personas={groups: {}}"], ["personas.groups: is empty"]),
        (["personas={groups: {a/b: {user_id: x}, c: {}, C: {style: x}, d: {user_id: []}}}"],
         ["personas.groups.a/b: is to be a folder's name: letters, digits, '.', '_' and '-'",
          "personas.groups.c: another one differs in case alone",
          "personas.groups.c: has no filter, as in metadata.style: [terse]",
          "personas.groups.C: another one differs in case alone",
          f"personas.groups.C.style: is not a field; there are {NAMES}",
          "personas.groups.d.user_id: has no values"]),
    ],
)  # fmt: skip
def test_faults_of_personas_are_named_with_their_path(
    overrides: list[str], said: list[str]
) -> None:
    with pytest.raises(Problems) as caught:
        build_recipe(GOOD, overrides)
    assert caught.value.lines == said


def test_adapters_keep_their_learning_rate_where_a_recipe_sets_the_epochs_alone() -> None:
    recipe = build_recipe(GOOD, ["personas.train.epochs=3"])
    assert recipe.personas
    assert recipe.personas.train.epochs == 3
    assert recipe.personas.train.learning_rate == Personas().train.learning_rate == 2e-4
    assert build_recipe(GOOD, ["personas.train.learning_rate=1e-3"]).personas != recipe.personas


# ---- the science, on the quickstart's world -----------------------------------------------------

BASE = Path(userlm_synth.world.__file__).parent / "base"
STYLES = ("plain", "lowercase", "terse", "polite", "typos", "chatty")
TEXT = PersonaText("Writes in a {metadata.style} way.")
OPTIONS = Training(
    learning_rate=3e-3, max_length=256, batch_tokens=512, micro_batch_tokens=512, precision="fp32",
    validations=0,
)  # fmt: skip


class World:
    """Opening turns, as many of each style; people of `held_out` are none of those trained on."""

    def __init__(self, folder: Path, each: int, seed: int) -> None:
        self.folder, self.seed = folder, seed
        by_style: dict[str, list[Record]] = {style: [] for style in STYLES}
        for one in make_conversations(14 * each, seed):
            by_style[one["metadata"]["style"]].append(opening(one))
        chats = [one for some in zip(*by_style.values(), strict=False) for one in some]
        held_out = [one for one in chats if number(one) // 12 % 4 == 0]
        self.held_out = held_out[: 6 * each // 10]
        self.train = [one for one in chats if number(one) // 12 % 4][: 6 * each]
        self.general = self.make("general", BASE, self.train, OPTIONS)
        self.model = Model(str(self.general))

    def make(self, name: str, base: Path, chats: list[Record], options: Training) -> Path:
        out = self.folder / name
        train_on_turns(str(base), chats, options, out, speaker="user", seed=self.seed)
        return out

    def ratio(self, model: Path, chats: list[Record], shown: list[Record] | None = None) -> float:
        """Perplexity of a model to the general one's; `shown`: what it is shown instead."""
        other = perplexity(Model(str(model)), chats if shown is None else shown)
        return other / perplexity(self.model, chats)


def opening(one: Record) -> Record:
    return {**one, "intent": None, "messages": one["messages"][:1]}


def number(one: Record) -> int:
    return int(re.sub(r"\D", "", one["user_id"]))


def perplexity(model: Model, chats: list[Record]) -> float:
    scores = score(model, chats, "chat", True, 8192)
    return float(np.exp(scores.nats.sum() / scores.tokens.sum()))


def persona_ratios(world: World) -> tuple[float, float]:
    """A model that is shown persona text: the right one, and a wrong one."""

    def wearing(chats: list[Record], step: int = 0) -> list[Record]:
        """Each with the persona of its own style, or of another."""
        shown = []
        for one in chats:
            style = STYLES[(STYLES.index(one["metadata"]["style"]) + step) % len(STYLES)]
            shown.append({**one, "persona": TEXT.of(chat(style=style))[0]})
        return shown

    model = world.make("persona", BASE, wearing(world.train), OPTIONS)
    own, wrong = (world.ratio(model, world.held_out, wearing(world.held_out, n)) for n in (0, 1))
    return own, wrong


def adapter_ratios(world: World) -> dict[str, Any]:
    """Adapters for two styles, each on its own people and on others."""
    settings = Personas(
        groups={style: {"metadata.style": (style,)} for style in ("terse", "polite")},
        rank=8, alpha=16, train=replace(OPTIONS, epochs=2),
    )  # fmt: skip
    out = world.folder / "personas"
    train_adapters(str(world.general), world.train, settings, out, seed=0)
    own = members(groups_of(settings, world.train), world.held_out)
    return compare_adapters(str(world.general), out, own, world.held_out, seed=0)


def logs_ratios(world: World) -> tuple[float, float]:
    """A model that went on with half of a user's logs: on the other half, and on other people."""
    logs = [opening(one) for one in make_conversations(8000, 50) if one["user_id"] == "user-002"]
    half = len(logs) // 2
    options = replace(OPTIONS, epochs=5, learning_rate=3e-4)  # a tenth, so as to forget little
    model = world.make("own", world.general, logs[:half], options)
    style = logs[0]["metadata"]["style"]
    others = [one for one in world.held_out if one["metadata"]["style"] != style]
    return world.ratio(model, logs[half:]), world.ratio(model, others)


def domain_ratios(data: Path, out: Path, seed: int) -> dict[str, Any]:
    """Adapters for `coffee` and `topical`: the first two turns of real conversations."""
    train: list[Record] = []
    held_out: list[Record] = []
    for domain in ("coffee", "topical"):
        with gzip.open(data / f"{domain}.jsonl.gz", "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        random.Random(seed).shuffle(rows)
        for place, row in enumerate(rows[:190]):
            one = {
                **conversation("", intent=row["intent"]), "id": row["id"],
                "messages": row["messages"][:2], "metadata": {"domain": domain},
            }  # fmt: skip
            (train if place < 150 else held_out).append(one)
    options = replace(OPTIONS, epochs=1.5, batch_tokens=1024, micro_batch_tokens=1024)
    general = out / "general"
    train_on_turns(str(BASE), train, options, general, speaker="user", seed=seed)
    settings = Personas(by="metadata.domain", train=replace(options, epochs=2, learning_rate=5e-3))
    train_adapters(str(general), train, settings, out / "personas", seed=seed)
    own = members(groups_of(settings, train), held_out)
    return compare_adapters(str(general), out / "personas", own, held_out, seed=seed)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"), 500, 0)


@pytest.mark.minutes
def test_with_persona_text_a_model_knows_its_people_and_is_misled_by_a_wrong_one(
    world: World,
) -> None:
    own, wrong = persona_ratios(world)
    assert own < 0.98
    assert wrong > 1.1


@pytest.mark.minutes
def test_an_adapter_is_better_on_its_own_people_and_the_general_model_on_others(
    world: World,
) -> None:
    for name, sides in adapter_ratios(world).items():
        assert sides["own"]["ratio"] < 0.92, name
        assert sides["own"]["interval"][1] < 1, name
        assert sides["others"]["ratio"] > 1.1, name
        assert sides["others"]["interval"][0] > 1, name


@pytest.mark.minutes
def test_a_users_own_logs_make_a_user_lm_theirs(world: World) -> None:
    own, others = logs_ratios(world)
    assert own < 0.9
    assert others > 1.05


@pytest.mark.minutes
def test_an_adapter_for_a_domain_is_better_there_and_the_general_model_elsewhere(
    tmp_path: Path,
) -> None:
    folder = os.environ.get("USERLM_SYNTH_DATA")
    if not folder:
        pytest.skip("USERLM_SYNTH_DATA names no folder with coffee.jsonl.gz and topical.jsonl.gz")
    found = domain_ratios(Path(folder), tmp_path, 0)
    assert sorted(found) == ["coffee", "topical"]
    for name, sides in found.items():
        assert sides["own"]["ratio"] < 0.92, name
        assert sides["others"]["ratio"] > 1.1, name
