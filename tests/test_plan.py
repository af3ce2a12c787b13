"""Facts about which dialogues are held: files of intents and personas, slices, numbers of turns."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from userlm_synth.errors import Problems, UserError
from userlm_synth.recipe import Generate, Slice, build_recipe
from userlm_synth.records import Record, file_problems
from userlm_synth.simulate.intents_file import MAX_FAULTS, IntentsFile, PersonasFile
from userlm_synth.simulate.plan import Plan, Planned
from userlm_synth.simulate.turns import (
    compare_turns,
    ks_p_value,
    read_turn_counts,
    turn_counts,
    turns_table,
)

Write = Callable[..., Path]
ROOT = Path(__file__).resolve().parent.parent
INTENTS: list[Record] = [{"id": f"i{n}", "intent": f"buy {n} lamps for the hall"} for n in range(5)]
MANY: list[Record] = [{"id": f"i{n}", "intent": f"find out about {n}"} for n in range(2000)]
PEOPLE = [{"id": f"p{n}", "persona": f"number {n} of a choir"} for n in range(4)]


def lines_of(error: pytest.ExceptionInfo[Problems], folder: Path) -> list[str]:
    return [line.removeprefix(f"{folder}{os.sep}") for line in error.value.lines]


def held(plan: Plan, num: int) -> list[Planned]:
    return [plan.at(place) for place in range(num)]


def what(one: Planned) -> tuple[Any, ...]:
    """Everything but the place."""
    return (one.id, one.seed, one.slice, one.persona_id, one.persona, one.turns, one.intent_id)


@pytest.fixture
def people(tmp_path: Path, write_jsonl: Write) -> str:
    """A personas file of four."""
    return str(write_jsonl(tmp_path / "people.jsonl", PEOPLE))


# ---- the file of intents ---------------------------------------------------------------------


def test_rows_are_read_by_place_from_plain_and_packed_files_and_pipes(tmp_path: Path) -> None:
    rows = [{**one, "metadata": {"n": n}} for n, one in enumerate(INTENTS)]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).rstrip("\n")
    plain, packed, pipe = (tmp_path / name for name in ("a.jsonl", "b.jsonl.gz", "pipe"))
    plain.write_text(text)
    packed.write_bytes(gzip.compress(text.encode()))
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(text,))
    writer.start()
    for path in (plain, packed, pipe):
        file = IntentsFile(path)
        assert len(file) == 5
        assert [file[place] for place in (4, 0, 2)] == [
            {**rows[place], "persona": None} for place in (4, 0, 2)
        ]
        with pytest.raises(IndexError):
            file[5]
        with pytest.raises(IndexError):
            file[-1]
        file.close()
    writer.join()
    assert len(list(tmp_path.iterdir())) == 3, "what is copied leaves no file"


def test_conversations_stand_for_intents(tmp_path: Path, write_jsonl: Write) -> None:
    from toys import INTENT, conversation

    chat = {**conversation("hi"), "persona": "a nurse"}
    file = IntentsFile(write_jsonl(tmp_path / "c.jsonl", [chat]))
    assert file[0] == {"id": "toy-0", "intent": INTENT, "persona": "a nurse", "metadata": {}}
    file.close()


def test_every_fault_of_a_file_is_listed_with_its_line(tmp_path: Path) -> None:
    from toys import conversation

    good = json.dumps(INTENTS[0])
    (tmp_path / "i.jsonl").write_text(
        "\n".join([good, "", "{not json", '{"id": "x"}', "3", json.dumps({**INTENTS[1], "x": 1}),
                   json.dumps(conversation("hi", intent=None)), '{"id": "y", "intent": " "}',
                   '{"id": "z", "intent": "a\\u0000b"}', good])
    )  # fmt: skip
    with pytest.raises(Problems) as error:
        IntentsFile(tmp_path / "i.jsonl")
    found = lines_of(error, tmp_path)
    assert [line.split(" ")[0] for line in found] == [
        f"i.jsonl:{n}:" for n in (3, 4, 5, 6, 7, 8, 9, 10)
    ]
    assert found[0].endswith("mend or remove the line")
    assert "unknown 'x'" in found[3]
    assert "intent: is missing; make it with `userlm-synth intents make`" in found[4]
    assert "NUL" in found[6]
    assert "is on line 1 too" in found[7]


@pytest.mark.parametrize("blank", [False, True])
def test_a_second_row_of_an_id_is_named_with_both_lines(tmp_path: Path, blank: bool) -> None:
    rows = [json.dumps(INTENTS[n]) for n in (0, 1, 2, 1, 3, 1, 0)]
    rows[3:3] = ["", "  "] if blank else []
    (tmp_path / "i.jsonl").write_text("\n".join(rows))
    with pytest.raises(Problems) as error:
        IntentsFile(tmp_path / "i.jsonl")
    more = 2 if blank else 0
    assert lines_of(error, tmp_path) == [
        f"i.jsonl:{4 + more}: id: 'i1' is on line 2 too",
        f"i.jsonl:{6 + more}: id: 'i1' is on line 2 too",
        f"i.jsonl:{7 + more}: id: 'i0' is on line 1 too",
    ]


def test_two_ids_with_one_hash_are_two_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from userlm_synth.simulate import intents_file

    monkeypatch.setattr(intents_file, "hash", lambda _: 7, raising=False)
    path = tmp_path / "i.jsonl"
    path.write_text("\n".join(json.dumps(one) for one in INTENTS))
    IntentsFile(path).close()
    path.write_text("\n".join(json.dumps(one) for one in [*INTENTS, INTENTS[3]]))
    with pytest.raises(Problems, match=r"i\.jsonl:6: id: 'i3' is on line 4 too"):
        IntentsFile(path)


def test_blank_lines_are_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "i.jsonl"
    path.write_text("\n\n".join(json.dumps(one) for one in INTENTS) + "\n")
    file = IntentsFile(path)
    assert [file[place]["id"] for place in range(5)] == ["i0", "i1", "i2", "i3", "i4"]
    assert f"{path}:2: 4 blank lines left out" in capsys.readouterr().err
    file.close()


def test_an_empty_a_missing_and_a_broken_file_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match=r"empty\.jsonl: is empty; it needs at least one intent"):
        IntentsFile(tmp_path / "empty.jsonl")
    with pytest.raises(UserError, match="no such file"):
        IntentsFile(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match="is a folder"):
        IntentsFile(tmp_path)
    whole = gzip.compress("".join(json.dumps(one) + "\n" for one in MANY).encode())
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cut\.jsonl\.gz: broken gzip file after line \d+"):
        IntentsFile(tmp_path / "cut.jsonl.gz")


def test_a_file_of_another_kind_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "i.jsonl"
    path.write_text('{"text": "hello"}\n' * (MAX_FAULTS + 500))
    with pytest.raises(Problems) as error:
        IntentsFile(path)
    assert MAX_FAULTS <= len(error.value.lines) < MAX_FAULTS + 20
    path.write_text((json.dumps(INTENTS[0]) + "\n") * (MAX_FAULTS + 500))
    with pytest.raises(Problems) as error:
        IntentsFile(path)
    assert len(error.value.lines) == MAX_FAULTS


def test_a_file_that_changes_while_it_is_in_use_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "i.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in INTENTS))
    file = IntentsFile(path)
    path.write_text("something else")
    with pytest.raises(UserError, match="was changed while it was in use"):
        file[3]
    file.close()


def test_memory_holds_offsets_not_rows(tmp_path: Path) -> None:
    path = tmp_path / "i.jsonl"
    with path.open("w") as file:
        for n in range(30_000):
            file.write(json.dumps({"id": f"i{n}", "intent": "learn " + "a" * 1000}) + "\n")
    (tmp_path / "one.jsonl").write_text(json.dumps(INTENTS[0]))
    code = (
        "import resource, sys, numpy\n"
        "from pathlib import Path\n"
        "from userlm_synth.simulate.intents_file import IntentsFile\n"
        "IntentsFile(Path(sys.argv[1]))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "IntentsFile(Path(sys.argv[2]))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    arguments = [sys.executable, "-c", code, tmp_path / "one.jsonl", path]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    assert int(done.stdout) * unit < 8 * 2**20 < path.stat().st_size // 3


# ---- personas --------------------------------------------------------------------------------


def test_faults_of_a_personas_file_are_listed_with_their_lines(
    tmp_path: Path, write_jsonl: Write
) -> None:
    rows = [
        PEOPLE[0], {"id": "x"}, {"id": "y", "persona": " "}, {**PEOPLE[1], "weight": 0},
        {**PEOPLE[1], "weigth": 2}, {"id": "", "persona": "a"},
    ]  # fmt: skip
    path = write_jsonl(tmp_path / "p.jsonl", rows)
    with pytest.raises(Problems) as error:
        Plan(INTENTS, Generate(personas=str(path)), 0)
    assert lines_of(error, tmp_path) == [
        "p.jsonl:2: (record): missing 'persona'",
        "p.jsonl:3: persona: is empty; give it some text",
        "p.jsonl:4: weight: 0 is less than or equal to the minimum of 0",
        "p.jsonl:5: (record): unknown 'weigth' (extra fields go under 'metadata')",
        'p.jsonl:6: id: "" should be non-empty',
    ]
    assert file_problems(write_jsonl(path, PEOPLE)) == (4, []), "validate knows such a file"
    write_jsonl(path, [PEOPLE[0], PEOPLE[0]])
    with pytest.raises(Problems, match=r"p\.jsonl:2: id: 'p0' is on line 1 too"):
        PersonasFile(path)


def test_a_persona_stands_in_the_row_with_its_id_and_slice(people: str) -> None:
    one = Plan(INTENTS, Generate(personas=people, slices={"a": Slice()}), 0).at(6)
    assert one.persona == PEOPLE[int(str(one.persona_id)[1:])]["persona"]
    assert one.metadata == {"repetition": 1, "slice": "a", "persona_id": one.persona_id}
    assert Plan(INTENTS, Generate(), 0).at(6).metadata == {"repetition": 1}


def test_a_slices_own_personas_win_and_both_win_over_those_of_the_intents(
    tmp_path: Path, write_jsonl: Write, people: str
) -> None:
    other = write_jsonl(tmp_path / "other.jsonl", [{"id": "q", "persona": "a diver"}])
    intents = [{**one, "persona": "a nurse"} for one in INTENTS]
    slices = {"own": Slice(personas=str(other)), "common": Slice()}
    for one in held(Plan(intents, Generate(slices=slices, personas=people), 0), 60):
        assert (one.persona == "a diver") == (one.slice == "own")
        assert one.persona != "a nurse"
    without = held(Plan(intents, Generate(slices=slices), 0), 60)
    assert {(one.slice, one.persona, one.persona_id) for one in without} == {
        ("own", "a diver", "q"), ("common", "a nurse", None),
    }  # fmt: skip


def test_personas_come_by_their_weights(tmp_path: Path, write_jsonl: Write) -> None:
    rows = [{**PEOPLE[0], "weight": 3}, PEOPLE[1], {**PEOPLE[2], "weight": 0.5}]
    path = write_jsonl(tmp_path / "p.jsonl", rows)
    drawn = Counter(
        one.persona_id for one in held(Plan(MANY, Generate(personas=str(path)), 1), 4000)
    )
    assert drawn["p0"] / 4000 == pytest.approx(3 / 4.5, abs=0.04)
    assert drawn["p2"] / 4000 == pytest.approx(0.5 / 4.5, abs=0.04)


# ---- which dialogues -------------------------------------------------------------------------


def test_ids_and_seeds_are_those_of_the_first_version() -> None:
    one = Plan(INTENTS, Generate(), 0).at(0)
    assert (one.id, one.seed) == ("dlg-35f8f58c87c83b8357f2", 44717437836055528)
    nurse = Plan([{**INTENTS[2], "persona": "a nurse"}], Generate(), 3).at(1)
    assert (nurse.id, nurse.seed) == ("dlg-a05e012db462893286ef", 695628491078390101)
    assert nurse.persona == "a nurse"


def test_a_dialogue_is_the_same_from_a_file_and_from_a_list(
    tmp_path: Path, write_jsonl: Write
) -> None:
    file = IntentsFile(write_jsonl(tmp_path / "i.jsonl", INTENTS))
    assert held(Plan(file, Generate(), 5), 12) == held(Plan(INTENTS, Generate(), 5), 12)
    file.close()


def test_intents_come_in_turn_and_again_from_the_first() -> None:
    plan = Plan(INTENTS, Generate(), 0)
    planned = held(plan, 12)
    assert plan.cycle == 5
    assert [p.place for p in planned] == list(range(12))
    assert [p.intent_id for p in planned] == [f"i{n % 5}" for n in range(12)]
    assert [p.metadata["repetition"] for p in planned] == [0] * 5 + [1] * 5 + [2] * 2
    assert plan.at(5_000_000_003).metadata["repetition"] == 1_000_000_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of the first 1, 2 and 3 personas."""
    folder = tmp_path_factory.mktemp("people")
    for size in (1, 2, 3):
        lines = [json.dumps(one) + "\n" for one in PEOPLE[:size]]
        (folder / f"{size}.jsonl").write_text("".join(lines))
    return folder


SHAPES = st.lists(st.tuples(st.floats(0.1, 10), st.integers(0, 3)), max_size=4)
Shape = list[tuple[float, int]]


def ensemble(folder: Path, shape: Shape, combine: str) -> Generate:
    """Slices of some weights, each with some personas of its own (0: without a file)."""
    slices = {
        f"s{number}": Slice(
            weight=1.0 if combine == "cross" else weight,
            personas=str(folder / f"{size}.jsonl") if size else None,
        )
        for number, (weight, size) in enumerate(shape)
    }
    return Generate(slices=slices or None, combine=combine, turns={"1": 1.0, "3": 2.0})


@given(SHAPES, st.sampled_from(["draw", "cross"]), st.integers(0, 3), st.integers(1, 5))
def test_no_two_dialogues_are_the_same_one(
    folder: Path, shape: Shape, combine: str, seed: int, intents: int
) -> None:
    plan = Plan(INTENTS[:intents], ensemble(folder, shape, combine), seed)
    planned = held(plan, 3 * plan.cycle)
    plan.close()
    assert len({one.id for one in planned}) == len({one.seed for one in planned}) == len(planned)
    cells = {
        (one.intent_id, one.slice, one.persona_id, one.metadata["repetition"]) for one in planned
    }
    assert len(cells) == len(planned)


@given(SHAPES, st.sampled_from(["draw", "cross"]), st.permutations(range(5)), st.integers(0, 3))
def test_nothing_depends_on_the_order_of_intents_and_slices(
    folder: Path, shape: Shape, combine: str, order: list[int], seed: int
) -> None:
    settings = ensemble(folder, shape, combine)
    turned = Generate(
        slices=dict(reversed((settings.slices or {}).items())) or None,
        combine=combine, turns=dict(reversed((settings.turns or {}).items())),
    )  # fmt: skip
    one = Plan(INTENTS, settings, seed)
    other = Plan([INTENTS[n] for n in order], turned, seed)
    first, second = ({what(p) for p in held(plan, 2 * plan.cycle)} for plan in (one, other))
    one.close()
    other.close()
    assert first == second


@given(SHAPES, st.integers(1, 4), st.integers(0, 3))
def test_what_is_drawn_for_an_intent_does_not_depend_on_the_others(
    folder: Path, shape: Shape, some: int, seed: int
) -> None:
    settings = ensemble(folder, shape, "draw")
    all_five, few = Plan(INTENTS, settings, seed), Plan(INTENTS[:some], settings, seed)
    known = {what(one) for one in held(all_five, 15)}
    assert {what(one) for one in held(few, 3 * some)} <= known
    all_five.close()
    few.close()


@given(SHAPES, st.integers(1, 5), st.integers(0, 2))
def test_a_crossing_meets_every_intent_slice_and_persona_once_a_repetition(
    folder: Path, shape: Shape, intents: int, repetition: int
) -> None:
    plan = Plan(INTENTS[:intents], ensemble(folder, shape, "cross"), 0)
    places = range(repetition * plan.cycle, (repetition + 1) * plan.cycle)
    planned = [plan.at(place) for place in places]
    plan.close()
    cells = [
        (f"s{number}", f"p{person}" if size else None)
        for number, (_, size) in enumerate(shape)
        for person in range(size or 1)
    ] or [(None, None)]
    expected = Counter((f"i{n}", *cell) for n in range(intents) for cell in cells)
    assert Counter((one.intent_id, one.slice, one.persona_id) for one in planned) == expected
    assert {one.metadata["repetition"] for one in planned} == {repetition}


def test_a_crossing_that_is_cut_short_shows_all_cells_and_intents(people: str) -> None:
    plan = Plan(INTENTS, Generate(personas=people, combine="cross"), 0)
    assert plan.cycle == 20
    few = held(plan, 5)
    assert {one.intent_id for one in few} == {one["id"] for one in INTENTS}
    assert {one.persona_id for one in few} == {one["id"] for one in PEOPLE}


def test_slices_come_by_their_weights(people: str) -> None:
    slices = {"a": Slice(weight=6), "b": Slice(weight=3), "c": Slice(weight=1)}
    planned = held(Plan(MANY, Generate(slices=slices, personas=people), 0), 4000)
    shares = Counter(one.slice for one in planned)
    for name, weight in {"a": 0.6, "b": 0.3, "c": 0.1}.items():
        assert shares[name] / 4000 == pytest.approx(weight, abs=0.03)
    pairs = Counter((one.slice, one.persona_id) for one in planned)
    assert pairs["a", "p0"] / 4000 == pytest.approx(0.6 / 4, abs=0.03), "drawn apart"
    again = Counter((planned[n].slice, planned[n + 2000].slice) for n in range(2000))
    assert again["a", "a"] / 2000 == pytest.approx(0.36, abs=0.05), "a repetition draws anew"


def test_weights_that_differ_cannot_be_crossed(tmp_path: Path, write_jsonl: Write) -> None:
    path = write_jsonl(tmp_path / "p.jsonl", [PEOPLE[0], {**PEOPLE[1], "weight": 2}])
    slices = {"a": Slice(weight=6), "b": Slice()}
    with pytest.raises(Problems) as error:
        Plan(INTENTS, Generate(slices=slices, personas=str(path), combine="cross"), 0)
    assert lines_of(error, tmp_path) == [
        f"{where}: weights differ, but generate.combine: cross meets all equally often"
        for where in ("generate.slices", "p.jsonl")
    ]


# ---- numbers of turns ------------------------------------------------------------------------


def test_turns_are_drawn_by_their_shares_and_free_without_any() -> None:
    assert Plan(INTENTS, Generate(), 0).at(3).turns is None
    plan = Plan(MANY, Generate(turns={"2": 0.3, "1": 0.5, "7": 0.2, "4": 0.0}), 0)
    drawn = Counter(one.turns for one in held(plan, 4000))
    assert set(drawn) == {1, 2, 7}
    for number, share in {1: 0.5, 2: 0.3, 7: 0.2}.items():
        assert drawn[number] / 4000 == pytest.approx(share, abs=0.03)


def test_turns_follow_real_conversations(tmp_path: Path, write_jsonl: Write) -> None:
    from toys import conversation

    chats = [conversation(*["a", "b"] * n, number=n) for n in (1, 1, 1, 20)]
    path = write_jsonl(tmp_path / "chats.jsonl", chats)
    assert read_turn_counts(path) == turn_counts(chats) == {1: 3, 20: 1}
    plan = Plan(MANY, Generate(turns_like=str(path), max_turns=6), 0)
    drawn = Counter(one.turns for one in held(plan, 2000))
    assert set(drawn) == {1, 6}, "no longer than max_turns"
    assert drawn[1] / 2000 == pytest.approx(0.75, abs=0.04)


@pytest.mark.parametrize(
    ("turns", "line"),
    [
        ({"0": 1.0}, "generate.turns: '0' is not a number of turns, 1 or more"),
        ({"few": 1.0}, "generate.turns: 'few' is not a number of turns, 1 or more"),
        ({"2.5": 1.0}, "generate.turns: '2.5' is not a number of turns, 1 or more"),
        ({"11": 1.0}, "generate.turns: 11 is above generate.max_turns, which is 10"),
        ({"2": 1.0, "3": -1.0}, "generate.turns.3: -1 is below 0"),
        ({"2": 0.0}, "generate.turns: has no share above 0"),
        ({}, "generate.turns: has no share above 0"),
    ],
)
def test_shares_of_turns_that_make_no_sense_are_refused(turns: dict[str, float], line: str) -> None:
    with pytest.raises(Problems) as error:
        Plan(INTENTS, Generate(turns=turns), 0)
    assert error.value.lines == [line]


def test_conversations_without_turns_are_no_model_for_turns(
    tmp_path: Path, write_jsonl: Write
) -> None:
    path = write_jsonl(tmp_path / "i.jsonl", INTENTS)
    with pytest.raises(UserError, match=r"i\.jsonl:1: messages: is missing"):
        Plan(INTENTS, Generate(turns_like=str(path)), 0)
    path.write_text("{}")
    with pytest.raises(UserError, match=r"i\.jsonl:1: \(record\): missing"):
        read_turn_counts(path)
    path.write_text("")
    with pytest.raises(UserError, match="is empty"):
        read_turn_counts(path)
    with pytest.raises(UserError, match="give one of the two"):
        Plan(INTENTS, Generate(turns_like=str(path), turns={"1": 1.0}), 0)


def test_distances_of_turns_as_worked_out_by_hand() -> None:
    # shares 1/4 1/2 0 1/4 and 1/2 1/4 1/4 0: the differences are -1/4 1/4 -1/4 1/4 and their sums
    # -1/4 0 -1/4 0
    found = compare_turns(Counter({1: 1, 2: 2, 4: 1}), Counter({1: 4, 2: 2, 3: 2}))
    assert found == {
        "made": {"n": 4, "mean": 2.25},
        "human": {"n": 8, "mean": 1.75},
        "total_variation": 0.5,
        "ks": 0.25,
        "ks_p": found["ks_p"],
    }
    same = compare_turns(Counter({1: 2, 3: 4}), Counter({1: 3, 3: 6}))
    assert (same["total_variation"], same["ks"], same["ks_p"]) == (0.0, 0.0, 1.0)
    apart = compare_turns(Counter({1: 100}), Counter({2: 100}))
    assert (apart["total_variation"], apart["ks"]) == (1.0, 1.0)
    assert apart["ks_p"] < 1e-20
    assert compare_turns(Counter(), Counter({1: 2})) == {
        "made": {"n": 0, "mean": None}, "human": {"n": 2, "mean": 1.0},
        "total_variation": None, "ks": None, "ks_p": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("t", "p"), [(1.2238, 0.10), (1.3581, 0.05), (1.6276, 0.01), (1.9495, 0.001)]
)
def test_p_values_are_those_of_kolmogorovs_table(t: float, p: float) -> None:
    n = m = 2_000_000  # where the correction for few is nothing: s = 1000
    assert ks_p_value(t / (1000 + 0.12 + 0.11 / 1000), n, m) == pytest.approx(p, rel=0.002)


def test_a_p_value_of_few_by_hand() -> None:
    # n = m = 8: s = 2; t = (2 + 0.12 + 0.055) * 0.5 = 1.0875; 2 (e^-2.36531 - e^-9.46125 + ...)
    assert ks_p_value(0.5, 8, 8) == pytest.approx(2 * (0.0939200 - 0.0000778), abs=1e-6)


def test_the_table_of_turns_shows_shares_and_distances() -> None:
    made, human = Counter({1: 1, 2: 2, 4: 1}), Counter({1: 4, 2: 2, 3: 2})
    lines = turns_table(made, human, most=3).splitlines()
    assert [line.split() for line in lines[:-1]] == [
        ["user", "turns", "dialogues", "people"],
        ["1", "25.0%", "50.0%"],
        ["2", "50.0%", "25.0%"],
        ["3", "0.0%", "25.0%"],
        ["over", "3", "25.0%", "0.0%"],
        ["mean", "2.25", "1.75"],
    ]
    assert lines[-1].startswith("  50.0% of the dialogues would need another number of turns")
    assert turns_table(Counter(), human) == "  user turns: nothing to compare"


# ---- the page --------------------------------------------------------------------------------


def test_the_recipe_of_the_page_on_ensembles_is_one(
    tmp_path: Path, write_jsonl: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toys import conversation

    text = (ROOT / "docs" / "ensembles.md").read_text(encoding="utf-8")
    recipe = text.split("```yaml\n")[1].split("```")[0]
    people = text.split("```json\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "people.jsonl").write_text(people)
    write_jsonl(tmp_path / "intents.jsonl", MANY)
    chats = [conversation("hi", "hello"), conversation("hi", "hello", "bye", "bye")]
    write_jsonl(tmp_path / "people_who_write.jsonl", chats)
    generate = build_recipe(yaml.safe_load(recipe)).generate
    assert generate is not None
    plan = Plan(MANY, generate, 0)
    planned = held(plan, 500)
    plan.close()
    assert {one.slice for one in planned} == set(generate.slices or ())
    assert len({one.persona_id for one in planned}) > 2
    assert {one.turns for one in planned} == {1, 2}
