"""Cutting a stream of JSON into its records, without holding more than one of them. Pure.

A file is an array of records, records one after another, or one record a line. A line that is no JSON costs
itself alone; a file that ends too early costs its last record.
"""

from __future__ import annotations

import codecs
import json
import re
from dataclasses import dataclass
from typing import Any, Literal

MOST_RECORD_BYTES = 64 * 1024 * 1024
# A whole string, a bracket, or the beginning of a string whose end has not come yet.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\]]|"', re.DOTALL)
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, slots=True)
class Record:
    """One record (from 1) with the line (from 1) on which it begins: its value, or why it has none."""

    number: int
    line: int
    value: Any = None
    problem: str | None = None


class RecordSplitter:
    """Feed it blocks of any size, then close it."""

    def __init__(self, most_record_bytes: int = MOST_RECORD_BYTES) -> None:
        self._most = most_record_bytes
        self._buffer = bytearray()
        self._mode: Literal["unknown", "lines", "brackets", "over"] = "unknown"
        self._base = 0  # brackets that are open around a record: 1 in an array
        self._depth = 0
        self._scan = 0  # up to where the buffer has been looked at
        self._start: int | None = None  # of the record that is open
        self._line = 1
        self._number = 0

    def feed(self, block: bytes) -> list[Record]:
        """The records that are complete now."""
        self._buffer += block
        found: list[Record] = []
        if self._mode == "unknown":
            found += self._begin()
        if self._mode == "lines":
            found += self._lines(last=False)
        if self._mode == "brackets":
            found += self._brackets()
        if self._mode == "over":
            self._buffer.clear()
        elif len(self._buffer) - (self._start or 0) > self._most:
            found.append(
                self._failed(f"it is larger than {self._most // (1024 * 1024)} MiB; what follows is not read")
            )
            self._mode = "over"
            self._buffer.clear()
        return found

    def close(self) -> list[Record]:
        """What is left at the end of the stream."""
        found: list[Record] = []
        if self._mode == "lines":
            found += self._lines(last=True)
        if self._mode == "brackets" and (self._start is not None or self._base):
            found.append(self._failed("the file ends in the middle of it"))
        self._mode = "over"
        return found

    def _begin(self) -> list[Record]:
        if len(self._buffer) < 4:
            return []
        if bytes(self._buffer[:2]) in _UTF16:
            self._mode = "over"
            return [self._failed("the file is UTF-16; save it as UTF-8")]
        if self._buffer.startswith(codecs.BOM_UTF8):
            del self._buffer[:3]
        if not self._buffer.lstrip():
            return []
        if self._buffer.lstrip()[:1] == b"[":
            self._mode, self._base = "brackets", 1
        else:
            self._mode = "lines"
        return []

    # -- a record a line ----------------------------------------------------------------------------------

    def _lines(self, *, last: bool) -> list[Record]:
        found: list[Record] = []
        while True:
            end = self._buffer.find(b"\n", self._scan)
            if end < 0 and not last:
                self._scan = len(self._buffer)
                return found
            line = bytes(self._buffer if end < 0 else self._buffer[:end]).strip()
            if line:
                record = self._read(line)
                if record.problem is not None and self._number == 1 and line == b"{" and not last:
                    # Records over many lines, not one a line.
                    self._mode, self._number, self._scan = "brackets", 0, 0
                    return found
                found.append(record)
            if end < 0:
                self._buffer.clear()
                return found
            del self._buffer[: end + 1]
            self._scan = 0
            self._line += 1

    # -- records in brackets ------------------------------------------------------------------------------

    def _brackets(self) -> list[Record]:
        found: list[Record] = []
        for match in _TOKEN.finditer(self._buffer, self._scan):
            token = match.group()
            self._scan = match.end()
            if token == b'"':
                self._scan = match.start()
                break
            if token in b"{[":
                if self._depth == self._base and self._start is None and (self._depth or not self._base):
                    self._start = match.start()
                self._depth += 1
            elif token in b"}]":
                self._depth -= 1
                if self._depth == self._base and self._start is not None:
                    found.append(self._read(bytes(self._buffer[self._start : match.end()]), self._start))
                    self._start = None
                elif self._depth < self._base:
                    self._mode = "over"
                    return found
        self._forget()
        return found

    def _forget(self) -> None:
        """Drop what has been read."""
        upto = self._scan if self._start is None else self._start
        self._line += self._buffer.count(b"\n", 0, upto)
        del self._buffer[:upto]
        self._scan -= upto
        if self._start is not None:
            self._start = 0

    def _read(self, data: bytes, start: int = 0) -> Record:
        self._number += 1
        line = self._line + self._buffer.count(b"\n", 0, start) if start else self._line
        try:
            return Record(self._number, line, json.loads(data))
        except UnicodeDecodeError:
            return Record(self._number, line, problem="it is not UTF-8")
        except json.JSONDecodeError as error:
            return Record(self._number, line, problem=f"it is not JSON: {error.msg} at character {error.pos}")
        except RecursionError:
            return Record(self._number, line, problem="it is nested too deeply")

    def _failed(self, problem: str) -> Record:
        self._number += 1
        return Record(self._number, self._line, problem=problem)
