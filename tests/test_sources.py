"""Facts about reading chats: every container, and what happens to broken ones."""

from __future__ import annotations

import contextlib
import datetime
import gzip
import json
import os
import pickle
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from userlm_synth.conversations.sources import (
    FORMS,
    NAMED,
    Fault,
    drafts,
    located,
    open_source,
    rows,
)
from userlm_synth.conversations.sources import files as files_module
from userlm_synth.conversations.sources.streams import Broken, chunks, json_values, lines
from userlm_synth.errors import UserError
from userlm_synth.recipe import FORMATS, SOURCES, Columns, Conversations

Row = dict[str, Any]
CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
UTC = datetime.timezone.utc


def read(source: Path | str, **options: Any) -> list[Row]:
    """All drafts of a source; a fault of any kind is an error here."""
    wanted = Conversations(source=str(source), **options)
    opened, found = open_source(wanted), []
    for block in opened.blocks():
        assert pickle.loads(pickle.dumps(block)) == block
        for number, row in rows(block):
            assert not isinstance(row, Fault), f"{located(block.file, number)}: {row.reason}"
            found += drafts(row, opened.form(row), wanted, block.file, number)
    return found


def stream(source: Path, **options: Any) -> list[tuple[str, int, Row | Fault]]:
    """(file name, number, row or Fault) of everything in a source."""
    blocks = open_source(Conversations(source=str(source), **options)).blocks()
    return [(Path(b.file).name, number, row) for b in blocks for number, row in rows(b)]


def chat(number: int, **more: Any) -> Row:
    return {"id": f"c{number}", "messages": CHAT, **more}


def put(path: Path, data: bytes) -> Path:
    """Write bytes, packed as the name says."""
    import pyarrow as pa

    if path.suffix == ".gz":
        data = gzip.compress(data)
    elif path.suffix == ".zst":
        data = pa.compress(data, "zstd", asbytes=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def jsonl(values: Iterable[Any]) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def parquet(path: Path, values: list[Row], **options: Any) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(values), path, **options)
    return path


# ---- names -----------------------------------------------------------------------------------


def test_forms_and_named_sources_are_those_of_the_recipe() -> None:
    assert {*FORMS} == {*FORMATS} - {"auto"}
    assert {*NAMED} == {*SOURCES} - {"quickstart"}
    assert all(one.form in FORMS and one.license for one in NAMED.values())


def test_an_address_that_is_none_is_one_line() -> None:
    for bad in ("hf://datasets/only-a-name", "hf://datasets/a/b/c", "hf://datasets/a/b@"):
        with pytest.raises(UserError, match="hf://datasets/ORG/NAME"):
            open_source(Conversations(source=bad))


# ---- containers --------------------------------------------------------------------------------

ROWS = [chat(n, text="é\u2028\U0001f642", n=n) for n in range(50)]


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", [".jsonl", ".ndjson", ".json", "list.json", "indented.json"])
def test_json_in_every_container_gives_the_same_rows(
    kind: str, packed: str, tmp_path: Path
) -> None:
    text = {
        "list.json": json.dumps(ROWS).encode(),
        "indented.json": json.dumps(ROWS, indent=3, ensure_ascii=False).encode(),
    }.get(kind, jsonl(ROWS))
    assert [row for *_, row in stream(put(tmp_path / f"c{kind}{packed}", text))] == ROWS


def test_one_object_in_a_json_file_is_one_row(tmp_path: Path) -> None:
    for text in (json.dumps(ROWS[0]), json.dumps(ROWS[0], indent=1) + "\n"):
        assert stream(put(tmp_path / "c.json", text.encode())) == [("c.json", 1, ROWS[0])]


@pytest.mark.parametrize("row_group", [7, 1000])
def test_parquet_rows_come_in_order_whatever_the_row_groups(tmp_path: Path, row_group: int) -> None:
    path = parquet(tmp_path / "c.parquet", ROWS, row_group_size=row_group)
    expected = [("c.parquet", n, row) for n, row in enumerate(ROWS, 1)]
    assert stream(path) == expected
    few = list(files_module.blocks(Conversations(source=str(path)), size=500))
    assert len(few) > 2
    assert [(path.name, n, row) for b in few for n, row in rows(b)] == expected
    assert [b.number for b in few] == list(range(len(few)))
    assert few[-1].size == path.stat().st_size
    for start in (1, 3, len(few)):
        again = files_module.blocks(Conversations(source=str(path)), start, 500)
        assert list(again) == few[start:]


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".csv.gz", ".tsv.zst"])
def test_tables_in_text_keep_line_ends_quotes_and_empty_cells(tmp_path: Path, kind: str) -> None:
    mark = "\t" if "tsv" in kind else ","
    text = f'\ufeffmessages{mark}id\r\n"a ""b""\r\n{mark} c"{mark}1\r\n{mark}2\r\n\r\nx{mark}3'
    found = stream(put(tmp_path / f"t{kind}", text.encode()))
    assert [(n, row["messages"], row["id"]) for _, n, row in found if isinstance(row, dict)] == [
        (1, f'a "b"\r\n{mark} c', "1"), (2, "", "2"), (3, "x", "3"),
    ]  # fmt: skip


def test_a_folder_is_all_its_files_by_name_but_hidden_ones(tmp_path: Path) -> None:
    put(tmp_path / "b" / "one.jsonl.gz", jsonl([chat(2)]))
    put(tmp_path / "a.jsonl", jsonl([chat(1), {"messages": CHAT}]))
    parquet(tmp_path / "b" / "two.parquet", [chat(3)])
    put(tmp_path / "b" / "zero.json", json.dumps([chat(4)]).encode())
    put(tmp_path / "b" / "ztable.csv", b"messages,id\n[],5\n")
    for name in (".hidden/x.jsonl", "b/.y.jsonl", "README.md", "b/notes.txt"):
        put(tmp_path / name, b"not read")
    source = open_source(Conversations(source=str(tmp_path)))
    blocks = list(source.blocks())
    assert [Path(b.file).relative_to(tmp_path).as_posix() for b in blocks] == [
        "a.jsonl", "b/one.jsonl.gz", "b/two.parquet", "b/zero.json", "b/ztable.csv",
    ]  # fmt: skip
    assert [b.number for b in blocks] == [0, 1, 2, 3, 4]
    assert blocks[-1].size == source.total_bytes
    assert [row["id"] for b in blocks for _, row in rows(b) if "id" in row] == [
        "c1", "c2", "c3", "c4", "5",
    ]  # fmt: skip
    assert len(source.identity()) == 5
    before = source.identity()
    put(tmp_path / "a.jsonl", jsonl([chat(9), chat(10)]))
    assert source.identity() != before


def test_rows_without_ids_in_files_of_one_name_get_different_ids(tmp_path: Path) -> None:
    for name in ("x/c.jsonl", "y/c.jsonl"):
        put(tmp_path / name, jsonl([{"messages": CHAT}]))
    parquet(tmp_path / "x" / "c.parquet", [{"messages": CHAT}])
    ids = [one["id"] for one in read(tmp_path)]
    assert ids == ["x/c.jsonl-0000001", "x/c.parquet-0000001", "y/c.jsonl-0000001"]


# ---- cutting, against naive readers --------------------------------------------------------------

CELLS = st.sampled_from([b"{}", b'{"a": 1}', b"", b" ", b"\r", b'{"a":', b"[1]", b"\xff", b'"x"'])


def naive(data: bytes) -> list[tuple[int, bool]]:
    found = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            try:
                found.append((number, isinstance(json.loads(line), dict)))
            except ValueError:
                found.append((number, False))
    return found


@settings(max_examples=100)
@given(st.lists(CELLS, max_size=25), st.sampled_from([b"\n", b"\r\n"]), st.booleans(),
       st.integers(1, 40), st.booleans())  # fmt: skip
def test_blocks_of_any_size_hold_every_line_once_in_order(
    cells: list[bytes], end: bytes, closed: bool, size: int, bom: bool
) -> None:
    data = end.join(cells) + (end if closed else b"")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.jsonl"
        path.write_bytes((b"\xef\xbb\xbf" if bom else b"") + data)
        wanted = Conversations(source=str(path))
        blocks = list(files_module.blocks(wanted, 0, size))
        for start in (1, 2):
            assert list(files_module.blocks(wanted, start, size)) == blocks[start:]
    found = [(number, isinstance(row, dict)) for b in blocks for number, row in rows(b)]
    assert found == naive(data)
    assert all(b.size <= path_size(data, bom) for b in blocks)


def path_size(data: bytes, bom: bool) -> int:
    return len(data) + 3 * bom


def in_pieces(data: bytes, size: int) -> list[tuple[bytes, int]]:
    return [(data[at : at + size], at + size) for at in range(0, len(data), size)]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@settings(max_examples=150)
@given(st.lists(JSON, max_size=6), st.integers(1, 30), st.sampled_from([None, 2]), st.booleans())
def test_a_list_read_in_pieces_of_any_size_is_the_list(
    values: list[Any], size: int, indent: int | None, ascii_only: bool
) -> None:
    data = json.dumps(values, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "replace")
    expected = json.loads(data)
    found = [json.loads(text) for text, _ in json_values(in_pieces(data, size))]
    assert found == expected


@settings(max_examples=150)
@given(st.lists(st.dictionaries(st.text(max_size=3), JSON, max_size=2), min_size=1, max_size=5),
       st.integers(1, 30), st.data())  # fmt: skip
def test_a_list_that_breaks_off_gives_its_whole_items_and_then_breaks(
    values: list[Row], size: int, data: st.DataObject
) -> None:
    text = json.dumps(values).encode()
    cut = data.draw(st.integers(1, len(text) - 1))
    found: list[Row] = []
    with pytest.raises(Broken):
        found.extend(json.loads(item) for item, _ in json_values(in_pieces(text[:cut], size)))
    assert found == values[: len(found)]
    whole = sum(len(json.dumps(values[: n + 1])) - 1 <= cut for n in range(len(values)))
    assert len(found) == whole


@pytest.mark.parametrize("text", ['[{"a":1} {"a":2}]', '[{"a":1}] x', '[{"a":1},{"a" 2}]', "3", ""])
def test_faulty_json_documents_break_in_few_words(text: str) -> None:
    with pytest.raises(Broken) as caught:
        list(json_values([(text.encode(), len(text))]))
    assert "\n" not in str(caught.value)


def test_a_fault_early_in_a_long_list_does_not_wait_for_its_end() -> None:
    taken = 0

    def endless() -> Iterable[tuple[bytes, int]]:
        nonlocal taken
        yield b'[{"a": oops}, ', 1
        for taken in range(1, 100):
            yield b'{"a": 1}, ' * 1000, taken

    with pytest.raises(Broken, match="not JSON"):
        list(json_values(endless()))
    assert taken <= 1


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [".gz", ".zst"])
def test_a_truncated_file_gives_its_whole_lines_one_fault_and_the_next_file(
    tmp_path: Path, kind: str
) -> None:
    noise = [{"n": n, "text": os.urandom(40).hex()} for n in range(3000)]
    path = put(tmp_path / f"a.jsonl{kind}", jsonl(noise))
    path.write_bytes(path.read_bytes()[:100_000])
    put(tmp_path / "b.jsonl", jsonl([chat(1)]))
    *good, (name, last, fault), (other, one, row) = stream(tmp_path)
    assert isinstance(fault, Fault)
    assert fault.whole_file
    assert [number for _, number, _ in good] == list(range(1, last + 1))
    assert [one for *_, one in good] == noise[:last]
    assert (name, other, one, row) == (path.name, "b.jsonl", 1, chat(1))
    assert f"{located(str(path), last)}: {fault.reason}" == (
        f"{path}:{last}: the {'gzip' if kind == '.gz' else 'zstd'} file is broken from here on "
        "(Truncated compressed stream); get a whole copy of it"
    )
    if kind == ".gz":  # zstd gives no part of a block; of gzip every whole line is there
        with gzip.open(path) as file:
            readable = bytearray()
            with contextlib.suppress(EOFError):
                while byte := file.read(1):
                    readable += byte
        assert last == readable.count(b"\n")


def test_the_same_blocks_come_again_around_a_broken_file(tmp_path: Path) -> None:
    put(tmp_path / "a.jsonl.gz", b"x").write_bytes(b"this is no gzip file")
    put(tmp_path / "b.jsonl", jsonl([chat(1)]))
    source = open_source(Conversations(source=str(tmp_path)))
    blocks = list(source.blocks())
    assert [isinstance(b.payload, Fault) for b in blocks] == [True, False]
    assert list(source.blocks(1)) == blocks[1:]


def test_bad_lines_are_faults_between_good_ones(tmp_path: Path) -> None:
    bad = [b'{"id": ', b"[1, 2]", b'{"a": NaN}', b'{"a": "\xff"}', b"[" * 200_000]
    good = [b'{"a": 123456789012345678901}', b'{"a": "\\ud800"}', b" {}\r"]
    found = stream(put(tmp_path / "c.jsonl", b"\n".join([*bad, *good])))
    reasons = [row.reason for *_, row in found if isinstance(row, Fault)]
    assert [reason.split(";")[0].split(" (")[0] for reason in reasons] == [
        "not JSON", "is a JSON object", "NaN is not JSON", "not UTF-8 text", "nested too deeply",
    ]  # fmt: skip
    assert [number for _, number, row in found if isinstance(row, dict)] == [6, 7, 8]
    assert found[6][2] == {"a": "\ud800"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, r"no known form of conversations has the keys x, y; give conversations\.format"),
        ({"format": "wildchat"}, r"has no column 'conversation', which the form wildchat needs"),
        ({"columns": Columns(prompt="q")}, r"has no column 'q'.* it has: x, y"),
    ],
)
def test_a_parquet_or_csv_with_other_columns_is_one_fault(
    tmp_path: Path, options: Row, says: str
) -> None:
    parquet(tmp_path / "a.parquet", [{"x": 1, "y": 2}] * 500)
    put(tmp_path / "b.csv", b"x,y\n1,2\n1,2\n")
    found = stream(tmp_path, **options)
    assert [(name, number) for name, number, _ in found] == [("a.parquet", 0), ("b.csv", 0)]
    for *_, row in found:
        assert isinstance(row, Fault)
        assert re.search(says, row.reason)
        assert "\n" not in row.reason


def test_a_parquet_that_is_none_and_one_cut_off_are_one_fault(tmp_path: Path) -> None:
    put(tmp_path / "a.parquet", b"PAR1 but no more")
    whole = parquet(tmp_path / "b.parquet", ROWS).read_bytes()
    put(tmp_path / "b.parquet", whole[: len(whole) // 2])
    put(tmp_path / "c.parquet", b"")
    found = stream(tmp_path)
    assert [(name, number) for name, number, _ in found] == [
        ("a.parquet", 0), ("b.parquet", 0), ("c.parquet", 0),
    ]  # fmt: skip
    for *_, row in found:
        assert isinstance(row, Fault)
        assert row.reason.startswith("not a Parquet file that can be read (")
        assert "\n" not in row.reason


def test_faults_of_a_csv_are_of_a_row_or_of_the_rest(tmp_path: Path) -> None:
    text = b'messages,id\n[],1\n[],2,3\n\xff,4\n[],5\n"[],6\n'
    found = stream(put(tmp_path / "t.csv", text))
    assert [(number, isinstance(row, Fault)) for _, number, row in found] == [
        (1, False), (2, True), (3, True), (4, False), (4, True),
    ]  # fmt: skip
    reasons = [row.reason for *_, row in found if isinstance(row, Fault)]
    assert reasons[0] == "has 3 fields, and the header 2"
    assert reasons[1] == "not UTF-8 text; save the file as UTF-8"
    assert "unexpected end of data" in reasons[2]


def test_places_with_nothing_to_read_are_one_line(tmp_path: Path) -> None:
    put(tmp_path / "empty" / "notes.txt", b"")
    put(tmp_path / "c.xlsx", b"")
    for source, says in (
        (tmp_path / "empty", "has no file of a known kind in it; there are .jsonl"),
        (tmp_path / "c.xlsx", "is of no known kind; there are .jsonl"),
        (tmp_path / "gone", "no such file or folder"),
    ):
        with pytest.raises(UserError, match=says):
            open_source(Conversations(source=str(source)))


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.csv"):
        put(tmp_path / name, b"")
        assert stream(tmp_path / name) == []


# ---- memory --------------------------------------------------------------------------------------

READ = """
import json, sys
from pathlib import Path
from userlm_synth.conversations.sources import drafts, open_source, rows
from userlm_synth.recipe import Conversations

def peak():  # of this process; getrusage would begin with that of its parent
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

settings = Conversations(source=sys.argv[1])
source = open_source(settings)
before = peak()
lengths = []
for block in source.blocks():
    for number, row in rows(block):
        for one in drafts(row, source.form(row), settings, block.file, number):
            lengths.append(max(len(m["content"]) for m in one["messages"]))
print(json.dumps([len(lengths), max(lengths), (peak() - before) / 1024]))
"""


def read_apart(path: Path) -> tuple[int, int, float]:
    """Drafts, the longest message, and by how many MB reading in a process of its own grew."""
    if not Path("/proc/self/status").exists():
        pytest.skip("only Linux tells the peak of a process's memory")
    command = [sys.executable, "-c", READ, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    count, longest, megabytes = json.loads(done.stdout)
    return count, longest, megabytes


@pytest.mark.parametrize("kind", [".jsonl", ".json"])
def test_a_message_of_50_mb_among_others_is_read_in_bounded_memory(
    tmp_path: Path, kind: str
) -> None:
    huge = 50_000_000
    small = [chat(n, text="x" * 1000) for n in range(2000)]
    rows_ = [json.dumps(one) for one in small]
    rows_.insert(1000, '{"messages": [{"role": "user", "content": "' + "y" * huge + '"}]}')
    text = "\n".join(rows_) if kind == ".jsonl" else "[" + ",\n".join(rows_) + "]"
    path = put(tmp_path / f"c{kind}", text.encode())
    count, longest, megabytes = read_apart(path)
    assert (count, longest) == (2001, huge)
    assert megabytes < 450


@pytest.mark.parametrize("kind", [".jsonl", ".parquet"])
def test_long_files_take_no_more_memory_than_short_ones(tmp_path: Path, kind: str) -> None:
    noise = [chat(n, text=os.urandom(2000).hex()) for n in range(100)]
    grown = []
    for copies in (50, 350):  # 20 and 140 MB; the Parquet file is one row group
        path = tmp_path / f"c{copies}{kind}"
        if kind == ".parquet":
            parquet(path, noise * copies, compression="none", use_dictionary=False)
        else:
            put(path, jsonl(noise) * copies)
        grown.append(read_apart(path)[2])
    assert grown[1] < grown[0] + 90


def test_chunks_and_lines_lose_nothing(tmp_path: Path) -> None:
    data = os.urandom(10_000) + b"\n" + b"x" * 5000 + b"\n\n"
    for name in ("a", "a.gz", "a.zst"):
        path = put(tmp_path / name, data)
        assert b"".join(part for part, _ in chunks(path, 777)) == data
        pieces = [part for part, _ in lines(chunks(path, 777))]
        assert b"".join(pieces) == data
        assert all(piece.endswith(b"\n") for piece in pieces)
