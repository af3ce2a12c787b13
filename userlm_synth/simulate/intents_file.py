"""Files of intents and of personas, for millions of rows: checked once, then read by place.

In memory are the rows' offsets (8 bytes each), not the rows.
"""

from __future__ import annotations

import gzip
import tempfile
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from userlm_synth.errors import Problems, UserError, explain_disk_full
from userlm_synth.progress import say
from userlm_synth.records import Record, guess_schema, open_text, parse_json, record_problems

MAX_FAULTS = 1000  # of a file; then the rest is not looked at


class RowsFile:
    """A JSONL file (.gz too) whose rows have ids; `rows[place]` reads one.

    Opening it reads all of it and raises `Problems` with every fault as `file:line: path: what`.
    Blank lines are left out, which is said. A packed file, or a pipe, is copied once into a
    temporary file without a name, because neither can be read from the middle.
    """

    noun = "row"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offsets = array("Q")
        self._numbers = array("Q")  # their lines and
        self._hashes = array("q")  # the hashes of their ids, while the file is checked
        self._file, source = _seekable(path)
        try:
            faults = sorted(self._scan(source) + self._duplicates())[:MAX_FAULTS]
            if faults:
                raise Problems(f"{path}:{number}: {what}" for number, what in faults)
            if not len(self):
                raise UserError(
                    f"{path}: is empty; it needs at least one {self.noun}, a JSON object a line"
                )
        except BaseException:
            self.close()
            raise
        finally:
            if source is not self._file:
                source.close()
        del self._numbers, self._hashes

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, place: int) -> Record:
        if not 0 <= place < len(self._offsets):
            raise IndexError(place)
        self._file.seek(self._offsets[place])
        try:
            return self.row(parse_json(self._file.readline()))
        except (KeyError, TypeError, ValueError):
            raise UserError(
                f"{self.path}: was changed while it was in use; run the same command again"
            ) from None

    def close(self) -> None:
        """No row can be read any more."""
        self._file.close()

    def problems(self, record: Any) -> list[str]:
        """What is wrong with a row, as `path: what`."""
        raise NotImplementedError

    def row(self, record: Record) -> Record:
        """What its users need of a row."""
        raise NotImplementedError

    def good(self, record: Record) -> None:
        """A row without problems, while the file is checked."""

    def _scan(self, source: IO[bytes]) -> list[tuple[int, str]]:
        """Find the rows; returns (line, what) of the faults."""
        faults: list[tuple[int, str]] = []
        offset = blank = first_blank = 0
        for number, line in self._lines(source):
            if not line.strip():
                blank, first_blank = blank + 1, first_blank or number
            else:
                faults += [(number, what) for what in self._add(line, number, offset)]
            if len(faults) >= MAX_FAULTS:
                break
            offset += len(line)
        if blank:
            count = "a blank line" if blank == 1 else f"{blank:,} blank lines"
            say(f"  {self.path}:{first_blank}: {count} left out")
        return faults

    def _lines(self, source: IO[bytes]) -> Iterator[tuple[int, bytes]]:
        number = 0
        try:
            with explain_disk_full(Path(tempfile.gettempdir())):
                for number, line in enumerate(source, 1):
                    if source is not self._file:
                        self._file.write(line)
                    yield number, line
                self._file.flush()
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(
                f"{self.path}: broken gzip file after line {number} ({error})"
            ) from None

    def _add(self, line: bytes, number: int, offset: int) -> list[str]:
        try:
            record = parse_json(line)
        except ValueError as error:
            return [f"{error}; mend or remove the line"]
        if not (found := self.problems(record)):
            self._offsets.append(offset)
            self._numbers.append(number)
            self._hashes.append(hash(record["id"]))
            self.good(record)
        return found

    def _duplicates(self) -> list[tuple[int, str]]:
        """(line, what) of ids that came before: 64 bits of each are compared, then the ids."""
        import numpy as np

        values, counts = np.unique(np.frombuffer(self._hashes, np.int64), return_counts=True)
        suspects = set(values[counts > 1].tolist())
        first: dict[str, int] = {}
        faults: list[tuple[int, str]] = []
        for place, value in enumerate(self._hashes) if suspects else ():
            if value in suspects:
                name, number = self[place]["id"], self._numbers[place]
                if first.setdefault(name, number) != number:
                    faults.append((number, f"id: {name!r} is on line {first[name]} too"))
            if len(faults) >= MAX_FAULTS:
                break
        return faults


class IntentsFile(RowsFile):
    """What dialogues start from: an intents file, or a file of conversations with intents."""

    noun = "intent"

    def problems(self, record: Any) -> list[str]:
        """A row of either kind that is not valid, or that has no intent."""
        found = record_problems(record, guess_schema(record))
        if not found and not record.get("intent"):
            found = ["intent: is missing; make it with `userlm-synth intents make`"]
        return found

    def row(self, record: Record) -> Record:
        """`id`, `intent`, `persona` (or None) and `metadata`."""
        return {
            "id": record["id"],
            "intent": record["intent"],
            "persona": record.get("persona"),
            "metadata": record.get("metadata") or {},
        }


class PersonasFile(RowsFile):
    """People to play: rows of `id`, `persona` and, where some are more frequent, `weight`."""

    noun = "persona"

    def __init__(self, path: Path) -> None:
        self.sums = array("d")  # of the weights up to each row
        self.equal = True  # all weights are the same
        super().__init__(path)

    def problems(self, record: Any) -> list[str]:
        """What its schema says."""
        return record_problems(record, "persona")

    def row(self, record: Record) -> Record:
        """`id` and `persona`."""
        return {"id": record["id"], "persona": record["persona"]}

    def good(self, record: Record) -> None:
        """Add its weight."""
        weight = float(record.get("weight", 1.0))
        self.sums.append(weight + (self.sums[-1] if self.sums else 0.0))
        self.equal = self.equal and weight == self.sums[0]

    def pick(self, share: float) -> Record:
        """The persona at a share of all the weight, from 0 to below 1."""
        return self[min(bisect_right(self.sums, share * self.sums[-1]), len(self) - 1)]


def _seekable(path: Path) -> tuple[IO[bytes], IO[bytes]]:
    """(a file to seek in, the one to read now): two where the former is filled from the latter."""
    source = open_text(path)
    if path.suffix != ".gz" and path.is_file():
        return source, source
    return tempfile.TemporaryFile(), source
