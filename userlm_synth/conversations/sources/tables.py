"""Rows of Parquet and CSV files in batches, and Arrow tables cut down to what a form reads."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from userlm_synth.conversations.sources.recognising import READS, table_form
from userlm_synth.conversations.sources.streams import BOM, CHUNK, Broken, chunks, lines
from userlm_synth.errors import UserError
from userlm_synth.records import Record, parse_json

if TYPE_CHECKING:
    from userlm_synth.recipe import Conversations


def parquet_batches(
    path: Path, settings: Conversations, size: int = CHUNK
) -> Iterator[tuple[int, int, bytes]]:
    """(first row, bytes of the file so far, Arrow IPC stream) of about `size` bytes each."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    row, total = 0, path.stat().st_size
    try:
        # A buffer, so that a column chunk (a whole one may be gigabytes) is read piece by piece.
        with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            names, count = file.schema_arrow.names, max(file.metadata.num_rows, 1)
            form = check_form(names, settings)
            kept = [name for name in names if name in READS.get(form, names)]
            unpacked = sum(
                file.metadata.row_group(group).total_byte_size
                for group in range(file.num_row_groups)
            )
            rows = min(max(1, size * count // max(unpacked, 1)), 10_000)
            for batch in file.iter_batches(rows, columns=kept):
                yield row + 1, total * (row + len(batch)) // count, pack(batch, form)
                row += len(batch)
    except (OSError, pa.ArrowException) as error:
        what = str(error).splitlines()[0].split(" Either")[0]
        raise Broken(f"not a Parquet file that can be read ({what})", row) from None


def check_form(names: list[str], settings: Conversations) -> str:
    """The form of a table by its columns; raises Broken where it has none."""
    try:
        return table_form(names, settings)
    except UserError as error:
        raise Broken(str(error)) from None


def pack(batch: Any, form: str) -> bytes:
    """An Arrow table or record batch as an IPC stream, with nothing in it that no form reads."""
    import pyarrow as pa

    reads = READS.get(form)
    table = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
    if reads:
        table = table.select([name for name in table.column_names if name in reads])
        for place, name in enumerate(table.column_names):
            if reads[name]:
                narrow = pa.chunked_array(
                    [_narrow(chunk, reads[name]) for chunk in table[name].chunks],
                ) if table[name].num_chunks else table[name]  # fmt: skip
                table = table.set_column(place, name, narrow)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    packed: bytes = sink.getvalue().to_pybytes()
    return packed


def _narrow(turns: Any, keep: tuple[str, ...]) -> Any:
    """A list of structs with some of their fields alone; anything else as it is."""
    import pyarrow as pa

    kind = turns.type
    if not pa.types.is_list(kind) or not pa.types.is_struct(kind.value_type) or turns.null_count:
        return turns
    values = turns.values
    fields = [field.name for field in kind.value_type if field.name in keep]
    kept = pa.StructArray.from_arrays(
        [values.field(name) for name in fields], fields, mask=values.is_null()
    )
    return pa.ListArray.from_arrays(turns.offsets, kept)


def unpack(packed: bytes) -> list[Record]:
    """The rows of an IPC stream."""
    import pyarrow as pa

    table = pa.ipc.open_stream(packed).read_all()
    rows: list[Record] = table.to_pylist()
    for field in table.schema:
        if "arrow.json" in str(field.type):  # what `datasets` makes of values of mixed types
            for row in rows:
                row[field.name] = _decoded(row[field.name], field.type)
    return rows


def _decoded(value: Any, kind: Any) -> Any:
    """A value with the JSON texts in it parsed."""
    import pyarrow as pa

    if value is None:
        return None
    if pa.types.is_struct(kind):
        return {field.name: _decoded(value[field.name], field.type) for field in kind}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return [_decoded(item, kind.value_type) for item in value]
    return parse_json(value) if isinstance(kind, pa.JsonType) else value


def csv_rows(
    path: Path, settings: Conversations, size: int = CHUNK
) -> Iterator[tuple[int, int, Record | str]]:
    """(row number, bytes of the file so far, row or what is wrong with it)."""
    position = 0

    def text() -> Iterator[str]:
        nonlocal position
        for data, done in lines(chunks(path, size)):
            position = done
            # Bytes that are no UTF-8 are marked, so that their row alone is lost.
            yield from io.StringIO(
                data.removeprefix(BOM).decode(errors="surrogateescape"), newline=""
            )

    number = 0
    csv.field_size_limit(2**31 - 1)
    delimiter = "\t" if ".tsv" in path.suffixes else ","
    reader = csv.reader(text(), delimiter=delimiter, strict=True)
    try:
        header = next(reader, None)
        if header is None:
            return
        check_form(header, settings)
        for cells in reader:
            if not cells:
                continue
            number += 1
            yield number, position, _csv_row(header, cells)
    except csv.Error as error:
        raise Broken(
            f"not {path.suffixes[0][1:].upper()} after this row ({error})", number
        ) from None
    except Broken as error:
        raise Broken(str(error), number) from None


def _csv_row(header: list[str], cells: list[str]) -> Record | str:
    if len(cells) != len(header):
        return f"has {len(cells)} fields, and the header {len(header)}"
    if any(not cell.isascii() and any("\udc80" <= c <= "\udcff" for c in cell) for cell in cells):
        return "not UTF-8 text; save the file as UTF-8"
    return dict(zip(header, cells, strict=True))
