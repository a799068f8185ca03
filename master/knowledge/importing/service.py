"""Bringing conversations in from a stream: read as it comes, each kept by itself; twice is once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from master.knowledge.archiving import ArchiveService
from master.knowledge.importing.formats import UnreadableRecordError, read
from master.knowledge.importing.records import Record, RecordSplitter
from master.knowledge.preparing import Slot, prepare
from master.state.archive_records import NewArchive

MOST_PROBLEMS = 100
_BLOCK_BYTES = 1024 * 1024


@dataclass(slots=True)
class ImportReport:
    """What became of a file. `known` were archived before; `problems` names the records that were skipped."""

    dry_run: bool
    found: int = 0
    imported: int = 0
    known: int = 0
    skipped: int = 0
    messages: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    problems: list[dict[str, Any]] = field(default_factory=list)

    def skip(self, record: Record, reason: str) -> None:
        self.skipped += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append({"record": record.number, "line": record.line, "reason": reason})

    def to_json(self) -> dict[str, Any]:
        return {
            "dry_run": self.dry_run,
            "found": self.found,
            "imported": self.imported,
            "known": self.known,
            "skipped": self.skipped,
            "messages": self.messages,
            "formats": dict(self.formats),
            "problems": self.problems,
        }


class Importer:
    """`dry_run`: everything is read and counted, nothing is kept."""

    def __init__(self, archives: ArchiveService, *, dry_run: bool) -> None:
        self.report = ImportReport(dry_run)
        self._archives = archives
        self._splitter = RecordSplitter()
        self._seen: set[str] = set()

    async def run(self, blocks: AsyncIterator[bytes]) -> ImportReport:
        """Read the whole stream. Raises storage errors; what was kept until then stays, and is known when the
        file is sent again.
        """
        waiting = bytearray()
        async for block in blocks:
            waiting += block
            if len(waiting) >= _BLOCK_BYTES:
                await self._take(bytes(waiting))
                waiting.clear()
        await self._take(bytes(waiting))
        await self._keep(await asyncio.to_thread(self._splitter.close))
        return self.report

    async def _take(self, block: bytes) -> None:
        # Beside the loop: a megabyte of JSON takes longer than a chat may wait.
        await self._keep(await asyncio.to_thread(self._splitter.feed, block))

    async def _keep(self, records: list[Record]) -> None:
        slot = self._archives.slot()
        for record in records:
            self.report.found += 1
            if record.problem is not None:
                self.report.skip(record, record.problem)
                continue
            try:
                new = await asyncio.to_thread(_prepared, record, slot)
            except UnreadableRecordError as error:
                self.report.skip(record, str(error))
                continue
            self.report.formats[new.source] += 1
            self.report.messages += new.messages_count
            if self.report.dry_run:
                known = new.raw_sha256 in self._seen or await self._archives.knows(new.raw_sha256)
            else:
                _, created = await self._archives.keep(new)
                known = not created
            self._seen.add(new.raw_sha256)
            if known:
                self.report.known += 1
            else:
                self.report.imported += 1


def _prepared(record: Record, slot: Slot) -> NewArchive:
    return prepare(read(record.value), slot)
