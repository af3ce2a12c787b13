"""Facts about preparing chats end to end: what goes, what stays, and that every number adds up."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from conftest import Outcome

from toys import conversation
from userlm_synth.conversations import prepare, workers
from userlm_synth.conversations.sources import files
from userlm_synth.conversations.splits import SPLITS
from userlm_synth.recipe import Clean, Conversations, Dedup
from userlm_synth.records import Record

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import wildchat_shaped

Cli = Callable[..., Outcome]
Write = Callable[..., Path]
ALL: dict[str, Any] = {"train": 1.0, "validation": 0.0, "test": 0.0}
COUNT = 1200
AGAIN, LOUD, NEAR, EMPTY = 40, 30, 25, 20  # rows of each kind that are planted
BAD = (b'{"conversation": [', b'{"conversation": [{"role": "cat", "content": "meow"}]}', b"[1]")


def lines(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def contents(out: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    found = sorted(path for path in out.rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in found}


def kept_in(out: Path) -> list[Record]:
    """All conversations of all splits."""
    return [record for name in SPLITS for record in lines(out / f"{name}.jsonl")]


def run(source: Path, out: Path, seed: int = 0, **options: Any) -> Record:
    """Prepare; the data card."""
    prepare(Conversations(source=str(source), **options), out, seed)
    card: Record = json.loads((out / "card.json").read_bytes())
    return card


def dropped(card: Record) -> dict[str, int]:
    """Every reason of every step."""
    found: Counter[str] = Counter()
    for step in card["steps"]:
        found.update(step["dropped"])
    return dict(found)


@cache
def planted() -> list[Record]:
    """WildChat's form: genuine prompts, templates, and copies of other kinds all over."""
    rng = random.Random(1)
    rows = list(wildchat_shaped.rows(COUNT, seed=2))
    own = [row for row in rows if row["header"]["template"] < 0 and not row["toxic"]]
    some = rng.sample([row for row in own if len(said(row).split()) > 40], AGAIN + LOUD + NEAR)
    extra = []
    for number, row in enumerate(some):
        one = json.loads(json.dumps(row))
        if number >= AGAIN:
            one["conversation_hash"] = f"other-{number}"
            one["hashed_ip"] = f"{number}"
            for turn in one["conversation"][::2]:
                turn["content"] = f"  {turn['content'].upper()}\n"
        if number >= AGAIN + LOUD:
            one["conversation"][0]["content"] += " altogether"
        extra.append(one)
    for number in range(EMPTY):
        turns = [{"role": "user", "content": " \n"}, {"role": "assistant", "content": "?"}]
        extra.append({**own[0], "conversation_hash": f"empty-{number}", "conversation": turns})
    for one in extra:  # each after the one that it repeats
        rows.insert(rng.randint(COUNT // 2, len(rows)), one)
    first = {row["conversation_hash"] for row in rows[: COUNT // 2]}
    moved = [row for row in some if row["conversation_hash"] not in first]
    rows = [row for row in rows if not any(row is one for one in moved)]
    return [*moved, *rows]


def said(row: Record) -> str:
    text: str = row["conversation"][0]["content"]
    return text


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 1,300 conversations and three bad lines."""
    data = [json.dumps(row).encode() for row in planted()]
    for place, bad in zip((5, 900, 1200), BAD, strict=True):
        data.insert(place, bad)
    path = tmp_path_factory.mktemp("corpus") / "chats.jsonl"
    path.write_bytes(b"\n".join(data) + b"\n")
    return path


EVERYTHING: dict[str, Any] = {"keep_dropped": True, "on_error": "reject"}


@pytest.fixture(scope="module")
def done(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared corpus, with all that was dropped; look, do not touch."""
    out = tmp_path_factory.mktemp("done") / "out"
    run(corpus, out, **EVERYTHING)
    return out


# ---- the numbers -----------------------------------------------------------------------------


def test_each_planted_kind_goes_for_its_own_reason(done: Path, corpus: Path) -> None:
    card = json.loads((done / "card.json").read_bytes())
    reasons = dropped(card)
    toxic = sum(row["toxic"] for row in planted())
    assert reasons.pop("copies of a prompt template") > 0.35 * COUNT
    short = reasons["the same user turns as another"] - LOUD  # of a few words, by chance
    assert 0 <= short < 5
    assert reasons == {
        "not JSON": 1,
        "conversation[...].role: ... is not one of user, assistant, system, tool": 1,
        "is a JSON object": 1,
        "no user turn": EMPTY,
        "flagged toxic": toxic,
        "the same id and turns again": AGAIN,
        "the same user turns as another": LOUD + short,
        "nearly the same user turns as another": NEAR,
    }
    assert card["steps"][0]["in"] == len(corpus.read_bytes().splitlines())


def test_every_step_passes_on_what_it_did_not_drop(done: Path) -> None:
    card = json.loads((done / "card.json").read_bytes())
    assert [step["step"] for step in card["steps"]] == [
        "read", "clean", "ids", "exact copies", "templates", "near-duplicates",
    ]  # fmt: skip
    left = card["steps"][0]["in"]
    for step in card["steps"]:
        assert step["in"] == left
        left -= sum(step["dropped"].values())
        assert step["out"] == left
    assert left == sum(one["conversations"] for one in card["splits"].values()) > COUNT / 2


def test_what_was_dropped_and_rejected_is_what_the_steps_say(done: Path, corpus: Path) -> None:
    card = json.loads((done / "card.json").read_bytes())
    reasons = dropped(card)
    aside, faults = lines(done / "dropped.jsonl"), lines(done / "rejected.jsonl")
    assert [fault["fault"].split(": ")[0] for fault in faults] == [
        f"{corpus}:{number}" for number in (6, 901, 1201)
    ]
    assert sum(reasons.values()) == len(aside) + len(faults)
    by_reason = Counter(one["reason"] for one in aside)
    assert by_reason == {name: reasons[name] for name in by_reason}
    assert sum(by_reason.values()) == sum(reasons.values()) - 3


def test_each_conversation_that_was_dropped_names_the_line_it_came_from(
    done: Path, corpus: Path
) -> None:
    source = corpus.read_bytes().splitlines()
    seen = []
    for one in lines(done / "dropped.jsonl"):
        file, number = one["where"].rsplit(":", 1)
        row = json.loads(source[int(number) - 1])
        assert file == str(corpus)
        assert row["conversation_hash"] == one["record"]["id"]
        seen.append(int(number))
    assert len(set(seen)) == len(seen)
    ids = Counter(json.loads(line)["conversation_hash"] for line in source if line not in BAD)
    ids.subtract([one["record"]["id"] for one in lines(done / "dropped.jsonl")])
    assert +ids == Counter(one["id"] for one in kept_in(done)), "every line went somewhere, once"


def test_the_figures_of_the_card_are_those_of_the_files(done: Path) -> None:
    card = json.loads((done / "card.json").read_bytes())
    bins: dict[str, dict[str, list[int]]] = {name: {} for name in card["histograms"]}
    for name in SPLITS:
        data = (done / f"{name}.jsonl").read_bytes()
        assert card["files"][f"{name}.jsonl"] == {
            "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data),
        }  # fmt: skip
        chats = lines(done / f"{name}.jsonl")
        turns = [[t["content"] for t in one["messages"][::2]] for one in chats]
        assert card["splits"][name] == {
            "conversations": len(chats),
            "users": len({one["user_id"] or one["id"] for one in chats}),
            "user_turns": sum(map(len, turns)),
            "turns": sum(len(one["messages"]) for one in chats),
            "user_words": sum(len(text.split()) for one in turns for text in one),
            "with_intent": 0,
        }
        values = {
            "user_turns": list(map(len, turns)),
            "words_per_user_turn": [len(text.split()) for one in turns for text in one],
            "words_in_first_turn": [len(one[0].split()) for one in turns],
        }
        for which, numbers in values.items():
            edges = card["histograms"][which]["edges"]
            found = Counter(bisect_right(edges, number) - 1 for number in numbers)
            bins[which][name] = [found[at] for at in range(len(edges))]
    assert {name: one["counts"] for name, one in card["histograms"].items()} == bins
    chats = kept_in(done)
    for key, values in (
        ("languages", [one["language"] for one in chats]),
        ("countries", [one["metadata"]["country"] for one in chats]),
        ("models", [one["metadata"]["model"] for one in chats]),
        ("sources", [one["source"] for one in chats]),
    ):
        assert card[key] == dict(Counter(values))
        assert list(card[key].values()) == sorted(card[key].values(), reverse=True)


def test_a_user_without_a_name_counts_as_one_for_each_conversation(
    tmp_path: Path, write_jsonl: Write
) -> None:
    chats = [conversation(f"question {n}", intent=None, number=n) for n in range(6)]
    for number in range(3):
        chats[number] |= {"user_id": "u", "intent": "to ask"}
    card = run(write_jsonl(tmp_path / "c.jsonl", chats), tmp_path / "out", **ALL)
    assert card["splits"]["train"]["users"] == 4
    assert card["splits"]["train"]["with_intent"] == 3


def test_every_file_is_valid(done: Path, cli: Cli) -> None:
    named = [done / f"{name}.jsonl" for name in SPLITS]
    assert cli("validate", *named, done / "card.json").code == 0


# ---- what stays ------------------------------------------------------------------------------


def test_no_user_is_in_two_splits_and_all_have_their_share(done: Path) -> None:
    people = {name: {r["user_id"] for r in lines(done / f"{name}.jsonl")} for name in SPLITS}
    total = len(set().union(*people.values()))
    assert sum(map(len, people.values())) == total > 200
    assert 0.86 < len(people["train"]) / total < 0.94


def test_what_stays_is_in_the_order_of_the_source_and_the_first_of_its_kind(
    done: Path, corpus: Path
) -> None:
    rows = [json.loads(line) for line in corpus.read_bytes().splitlines() if line not in BAD]
    order = {row["conversation_hash"]: at for at, row in reversed(list(enumerate(rows)))}
    for name in SPLITS:
        places = [order[one["id"]] for one in lines(done / f"{name}.jsonl")]
        assert places == sorted(places)
    kept = {one["id"] for one in kept_in(done)}
    assert not {name for name in kept if name.startswith(("other", "empty"))}
    seen: set[int] = set()
    for row in rows:
        template = row["header"]["template"]
        if template >= 0 and not row["toxic"]:
            assert (row["conversation_hash"] in kept) <= (template not in seen)
            seen.add(template)


def test_genuine_conversations_stay(done: Path, corpus: Path) -> None:
    """But for those that repeat one by chance, such as two words."""
    rows = [json.loads(line) for line in corpus.read_bytes().splitlines() if line not in BAD]
    kept = {one["id"] for one in kept_in(done)}
    own = {
        row["conversation_hash"]
        for row in rows
        if row["header"]["template"] < 0 and not row["toxic"]
        if not row["conversation_hash"].startswith(("other", "empty"))
    }
    assert len(own - kept) <= 0.005 * len(own)


def test_adding_conversations_moves_none_to_another_split(corpus: Path, tmp_path: Path) -> None:
    part = tmp_path / "part.jsonl"
    part.write_bytes(b"".join(corpus.read_bytes().splitlines(keepends=True)[:500]))
    where: list[dict[str, str]] = []
    for source in (part, corpus):
        out = tmp_path / source.stem
        run(source, out, on_error="reject", dedup=None)
        where.append({r["id"]: name for name in SPLITS for r in lines(out / f"{name}.jsonl")})
    assert len(where[0]) > 400
    assert where[0].items() <= where[1].items()


# ---- the same bytes --------------------------------------------------------------------------


def same(one: Path, two: Path) -> bool:
    """Equal in all files; what was dropped stands in the order of blocks."""
    found = [contents(out) for out in (one, two)]
    aside = [sorted(files.pop("dropped.jsonl").splitlines()) for files in found]
    return found[0] == found[1] and aside[0] == aside[1]


@pytest.mark.parametrize("size", [30_000, 10**9])
def test_blocks_of_any_size_give_the_same_bytes(
    done: Path, corpus: Path, tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "blocks", partial(files.blocks, size=size))
    run(corpus, tmp_path, **EVERYTHING)
    assert same(tmp_path, done)


def test_two_processes_give_the_same_bytes(
    done: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "SMALL", 0)
    monkeypatch.setattr(files, "blocks", partial(files.blocks, size=100_000))
    run(corpus, tmp_path, workers=2, **EVERYTHING)
    assert same(tmp_path, done)


def test_packed_and_cut_into_files_it_gives_the_same_conversations(
    done: Path, corpus: Path, tmp_path: Path
) -> None:
    data = corpus.read_bytes().splitlines(keepends=True)
    folder = tmp_path / "parts"
    folder.mkdir()
    for number, start in enumerate(range(0, len(data), 500)):
        part = gzip.compress(b"".join(data[start : start + 500]), 1)
        (folder / f"{number:02d}.jsonl.gz").write_bytes(part)
    run(folder, tmp_path / "out", **EVERYTHING)
    for name in (*(f"{split}.jsonl" for split in SPLITS), "templates.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (done / name).read_bytes()


def test_nothing_hidden_is_left(done: Path) -> None:
    assert sorted(contents(done)) == [
        "card.json", "dropped.jsonl", "index.html", "rejected.jsonl", "templates.jsonl",
        "test.jsonl", "train.jsonl", "validation.jsonl",
    ]  # fmt: skip


def test_files_of_a_former_preparation_go(corpus: Path, tmp_path: Path) -> None:
    """dropped, rejected and templates belong to the run that wrote the rest, or are not there."""
    good = tmp_path / "good.jsonl"
    good.write_bytes(b"".join(corpus.read_bytes().splitlines(keepends=True)[6:300]))
    run(corpus, tmp_path / "out", **EVERYTHING)
    run(good, tmp_path / "out", dedup=None)
    assert sorted(contents(tmp_path / "out")) == [
        "card.json", "index.html", "test.jsonl", "train.jsonl", "validation.jsonl",
    ]  # fmt: skip


def test_what_is_dropped_is_kept_on_request_alone(corpus: Path, tmp_path: Path) -> None:
    run(corpus, tmp_path / "out", on_error="reject")
    assert "dropped.jsonl" not in contents(tmp_path / "out")


# ---- templates -------------------------------------------------------------------------------


def test_the_review_file_shows_each_template_with_three_of_its_copies(
    done: Path, corpus: Path
) -> None:
    rows = {row["conversation_hash"]: row for row in planted()}
    card = json.loads((done / "card.json").read_bytes())
    found = lines(done / "templates.jsonl")
    counts = [one["count"] for one in found]
    assert counts == sorted(counts, reverse=True)
    assert card["templates_found"] == len(found)
    assert card["templates"] == [
        {key: one[key] for key in ("text", "count", "kept")} for one in found[:20]
    ]
    which = []
    for one in found:
        assert one["kept"] == 1
        assert len(one["examples"]) == 3
        examples = [rows[example["id"]] for example in one["examples"]]
        assert [e["text"] for e in one["examples"]] == [said(row)[:500] for row in examples]
        (template,) = {row["header"]["template"] for row in examples}
        words = set(said(examples[0]).lower().strip(".").split())
        assert len(words & set(one["text"].split())) > len(words) / 2
        which.append(template)
    sizes = Counter(row["header"]["template"] for row in rows.values() if not row["toxic"])
    assert sorted(which) == sorted(set(sizes) - {-1}), "each planted one, once"
    for template, one in zip(which, found, strict=True):
        assert one["count"] >= sizes[template] - 2
    gone = dropped(card)["copies of a prompt template"]
    assert gone == sum(one["count"] - one["kept"] for one in found)


@pytest.mark.parametrize("cap", [0, 1, 5])
def test_each_template_keeps_as_many_as_its_cap(corpus: Path, tmp_path: Path, cap: int) -> None:
    dedup = Dedup(cap=cap, near=1)
    card = run(corpus, tmp_path, on_error="reject", dedup=dedup)
    found = lines(tmp_path / "templates.jsonl")
    assert {one["kept"] for one in found} == {cap}
    assert "near-duplicates" not in [step["step"] for step in card["steps"]]
    kept = Counter(one["id"] for one in kept_in(tmp_path))
    of = {row["conversation_hash"]: row["header"]["template"] for row in planted()}
    left = Counter(of[name] for name in kept if of[name] >= 0)
    assert sum(left.values()) <= cap * len(found) + 0.01 * COUNT


def test_a_template_needs_as_many_copies_as_the_recipe_says(corpus: Path, tmp_path: Path) -> None:
    run(corpus, tmp_path, on_error="reject", dedup=Dedup(min_copies=100_000))
    assert not (tmp_path / "templates.jsonl").exists()


# ---- copies ----------------------------------------------------------------------------------


def put(path: Path, records: Iterable[Record]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


def chats(texts: Iterable[str]) -> list[Record]:
    return [conversation(text, f"reply {n}", number=n) for n, text in enumerate(texts)]


def stays(tmp_path: Path, records: list[Record], **options: Any) -> list[int]:
    """The places of those that stay."""
    run(put(tmp_path / "few.jsonl", records), tmp_path / "out", **options, **ALL)
    kept = {one["id"] for one in kept_in(tmp_path / "out")}
    return [place for place, one in enumerate(records) if one["id"] in kept]


TWELVE = "what is the best way to cook a pot of brown rice"


def test_case_and_space_make_no_other_conversation_and_replies_do_not_either(
    tmp_path: Path,
) -> None:
    texts = ["Hello there", "hello  THERE\n", "hello there!", "hello", "Hello There"]
    assert stays(tmp_path, chats(texts)) == [0, 2, 3]
    assert stays(tmp_path, chats(texts), dedup=Dedup(exact=False)) == [0, 1, 2, 3, 4]


def test_a_conversation_that_goes_on_otherwise_is_no_copy(tmp_path: Path) -> None:
    one = conversation(TWELVE, "like so", "and white rice", number=0)
    two = conversation(TWELVE, "like so", "thanks", number=1)
    cut = conversation(TWELVE, "like so", number=2)
    again = conversation(TWELVE, "otherwise", "And white rice", number=3)
    assert stays(tmp_path, [one, two, cut, again], dedup=Dedup(near=1)) == [0, 1, 2]


def test_the_text_of_two_turns_is_not_the_text_of_one(tmp_path: Path) -> None:
    one, two = conversation("a b c", number=0), conversation("a", "-", "b c", number=1)
    assert stays(tmp_path, [one, two]) == [0, 1]


def test_nearly_the_same_goes_where_it_is_of_twelve_words_at_least(tmp_path: Path) -> None:
    eleven = TWELVE.removesuffix(" rice")
    assert len(TWELVE.split()) == 12
    assert stays(tmp_path, chats([TWELVE, f"{TWELVE}?", eleven, f"{eleven}?"])) == [0, 2, 3]


def test_near_duplicates_are_told_by_all_that_the_user_says(tmp_path: Path) -> None:
    """Branches of one tree stay; the same conversation with a word changed does not."""
    rng = random.Random(1)
    more = [" ".join(rng.choices(wildchat_shaped.Words(0).words, k=30)) for _ in range(3)]
    branches = [conversation(TWELVE, "so", text, number=n) for n, text in enumerate(more)]
    changed = conversation(TWELVE, "so", f"{more[1]} please", number=3)
    assert stays(tmp_path, [*branches, changed]) == [0, 1, 2]
    assert stays(tmp_path, [*branches, changed], dedup=Dedup(near=1)) == [0, 1, 2, 3]


# ---- ids -------------------------------------------------------------------------------------


def test_ids_are_made_of_file_and_line_and_are_the_same_whatever_is_dropped(
    tmp_path: Path, write_jsonl: Write
) -> None:
    folder = tmp_path / "logs"
    (folder / "sub").mkdir(parents=True)
    turns = [[{"role": "user", "content": f"question {n} of {'abc'[n % 3]}"}] for n in range(9)]
    turns[1] = [{"role": "user", "content": " "}]
    for name, some in (("a.jsonl", turns[:3]), ("a.json", turns[3:6]), ("sub/a.jsonl", turns[6:])):
        write_jsonl(folder / name, [{"messages": messages} for messages in some])
    (folder / "a.jsonl").write_bytes(b"\n\n" + (folder / "a.jsonl").read_bytes())
    run(folder, tmp_path / "out", **ALL)
    ids = {one["messages"][0]["content"]: one["id"] for one in kept_in(tmp_path / "out")}
    assert len(set(ids.values())) == len(ids) == 8
    assert ids["question 0 of a"].endswith("-0000003"), "blank lines count"
    assert ids["question 2 of c"].endswith("-0000005")
    assert "sub/a" in ids["question 6 of a"]
    run(folder / "a.jsonl", tmp_path / "one", **ALL)
    assert [one["id"] for one in kept_in(tmp_path / "one")] == ["a-0000003", "a-0000005"]


def test_the_same_id_and_turns_again_is_a_counted_copy(tmp_path: Path) -> None:
    records = [*chats(["one", "two"]), *chats(["one"]), *chats(["one", "two"])[1:]]
    source = put(tmp_path / "c.jsonl", records)
    for dedup in (None, Dedup()):
        card = run(source, tmp_path / "out", dedup=dedup, keep_dropped=True, **ALL)
        assert dropped(card) == {"the same id and turns again": 2}
        assert [one["id"] for one in kept_in(tmp_path / "out")] == ["toy-0", "toy-1"]
        assert [one["where"] for one in lines(tmp_path / "out" / "dropped.jsonl")] == [
            f"{source}:3", f"{source}:4",
        ]  # fmt: skip


# ---- settings --------------------------------------------------------------------------------


def test_redaction_puts_placeholders_in_and_counts_them(tmp_path: Path) -> None:
    records = chats(["write to anna@example.org please", "nothing here", "I am ben@example.org"])
    records[1]["messages"][1]["content"] = "mail carl@example.org or dora@example.org"
    records[2]["metadata"] = {"note": "eva@example.org"}
    source = put(tmp_path / "c.jsonl", records)
    card = run(source, tmp_path / "out", redact=True, **ALL)
    (step,) = [step for step in card["steps"] if step["step"] == "redact"]
    assert step["changed"] == {"EMAIL": 5}
    texts = [[turn["content"] for turn in one["messages"]] for one in kept_in(tmp_path / "out")]
    assert texts == [
        ["write to [EMAIL] please", "reply 0"],
        ["nothing here", "mail [EMAIL] or [EMAIL]"],
        ["I am [EMAIL]", "reply 2"],
    ]
    assert b"@example.org" not in b"".join(contents(tmp_path / "out").values())
    card = run(source, tmp_path / "out", **ALL)
    assert "redact" not in [step["step"] for step in card["steps"]]
    assert kept_in(tmp_path / "out")[0]["messages"] == records[0]["messages"]


def test_redacted_copies_are_copies(tmp_path: Path) -> None:
    texts = ["mail ben@example.org", "mail anna@example.org", "mail her"]
    assert stays(tmp_path, chats(texts), redact=True) == [0, 2]


def test_without_cleaning_and_deduplication_no_step_drops_anything(
    corpus: Path, tmp_path: Path
) -> None:
    data = [line for line in corpus.read_bytes().splitlines() if line not in BAD]
    rows = [
        row for row in map(json.loads, data) if not row["conversation_hash"].startswith("empty")
    ]
    source = put(tmp_path / "c.jsonl", rows)
    card = run(source, tmp_path / "out", clean=None, dedup=None)
    assert [step["step"] for step in card["steps"]] == ["read", "ids"]
    assert dropped(card) == {"the same id and turns again": AGAIN}
    assert len(kept_in(tmp_path / "out")) == len(rows) - AGAIN
    assert (card["templates"], card["templates_found"]) == ([], 0)


def test_languages_flags_and_listed_ids_are_left_out_and_counted(tmp_path: Path) -> None:
    records = chats(["one", "zwei", "three", "four", "five", "six"])
    for record, language in zip(
        records, ("English", "German", "en", None, "en", "en"), strict=True
    ):
        record["language"] = language
    records[2]["metadata"] = {"toxic": True}
    (tmp_path / "ids.txt").write_text("toy-4\n")
    source = put(tmp_path / "c.jsonl", records)
    clean = Clean(languages=("en",), exclude_ids=str(tmp_path / "ids.txt"))
    card = run(source, tmp_path / "out", clean=clean, license="cc0-1.0", **ALL)
    assert dropped(card) == {
        "other language": 1,
        "language not recognised": 1,
        "flagged toxic": 1,
        "in the list of excluded ids": 1,
    }
    assert [one["id"] for one in kept_in(tmp_path / "out")] == ["toy-0", "toy-5"]
    assert card["languages"] == {"en": 2}
    assert card["source"]["license"] == "cc0-1.0"


@pytest.mark.parametrize("limit", [1, 7, 100])
def test_a_limit_reads_the_first_rows_alone(
    tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "blocks", partial(files.blocks, size=1000))
    records = chats(f"question {word}" for word in "abcdefghijklmnopqrst")
    assert stays(tmp_path, records, limit=limit) == list(range(min(limit, 20)))


def test_another_seed_divides_other_people(corpus: Path, tmp_path: Path) -> None:
    where = []
    for seed in (0, 1):
        run(corpus, tmp_path / "out", seed, on_error="reject", dedup=None)
        where.append({r["user_id"] for r in lines(tmp_path / "out" / "test.jsonl")})
    assert len(where[0] & where[1]) < len(where[0]) / 4


def test_the_command_says_what_went_and_where_the_card_is(
    cli: Cli, corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ["prepare", "--source", corpus, "--out", out, "--on-error", "reject"]
    ended = cli(*command, "--keep-dropped", "--split-by", "conversation", "--seed", "3")
    assert ended.code == 0
    assert ended.out == f"data card: {out / 'index.html'}\n"
    card = json.loads((out / "card.json").read_bytes())
    for reason, number in dropped(card).items():
        assert f"{reason} {number:,}" in ended.err
    assert (card["seed"], card["settings"]["split_by"]) == (3, "conversation")
    assert (out / "dropped.jsonl").exists()
