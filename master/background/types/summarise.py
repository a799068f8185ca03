"""The job that makes a structured archive of a stored conversation: a call a chunk, and one for the whole.

Each chunk's result is committed by itself; a job that is taken up again goes on behind the last one. A chunk
that gave nothing readable, as JSON and as marked text, fails the job: it never counts as read.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from common.errors import ContextOverflowError, ModelOutputError, NotFoundError
from master.background.job import BackgroundCall, JobContext, JobInput, JobType
from master.cluster.calls import Answer
from master.knowledge import prompts
from master.knowledge.archive_text import search_text, structured_terms
from master.knowledge.chunks import Chunk, halve, read_plan, texts
from master.knowledge.merging import merge
from master.knowledge.messages import Said, load
from master.knowledge.sections import (
    MAX_SUMMARY,
    Extracted,
    NotReadable,
    Sections,
    Source,
    believe,
    from_json_answer,
    from_marked_answer,
    is_placeholder,
    schema,
    tidy,
    with_summary,
)
from master.knowledge.words import share_found, stems
from master.state.archive_records import Archive, ChunkResult, StoredChunk, StructuredResult

NAME = "summarise"
PRIORITY = 10
_OPTIONS = {"temperature": 0.1}
_SUMMARY_TOKENS = 200
_EXPECTED_TOKENS = 300
_MOST_HALVINGS = 4
_LEAST_SUMMARY_SUPPORT = 0.5


class SummariseInput(JobInput):
    """`archive_id`: the stored conversation. `fresh`: what an equal text gave earlier is not taken again."""

    archive_id: str
    fresh: bool = False


@dataclass(slots=True)
class _Cost:
    """What the calls of one chunk took."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    duration_ms: float = 0.0
    model: str = ""
    practice: bool = False

    def add(self, answer: Answer) -> None:
        self.prompt_tokens += answer.token_usage.prompt_tokens
        self.completion_tokens += answer.token_usage.completion_tokens
        self.duration_ms += answer.latency.total_ms
        self.model = answer.model
        self.practice = self.practice or answer.practice


async def run(job: JobContext, given: SummariseInput) -> dict[str, Any]:
    """Structure one archive. An archive that was deleted meanwhile ends the job without an error."""
    try:
        return await _structure(job, given.archive_id, given.fresh)
    except NotFoundError:
        return {"archive_id": given.archive_id, "deleted": True}


async def _structure(job: JobContext, archive_id: str, fresh: bool) -> dict[str, Any]:
    archives = job.store.archives
    archive = await archives.get(archive_id)
    messages = load(archive.messages)
    chunks = read_plan(archive.plan)
    total = len(chunks) + 1
    for number, chunk in enumerate(chunks):
        await job.progress(number, total, f"chunk {number + 1} of {len(chunks)}")

        async def read_chunk(number: int = number, chunk: Chunk = chunk) -> int:
            if not await archives.has_chunk(archive_id, number):
                result = await _chunk_result(job, archive, messages, chunk, fresh)
                await archives.keep_chunk(archive_id, number, result)
            return number

        await job.step(f"chunk {number}", read_chunk)
    await job.progress(len(chunks), total, "the whole")

    async def join() -> int:
        stored = await archives.chunks(archive_id)
        if len(stored) != len(chunks):
            raise AssertionError("every chunk is stored before they are joined")
        await archives.finish(archive_id, await _join(job, archive, messages, stored))
        return len(stored)

    await job.step("join", join)
    await job.progress(total, total, "structured")
    return {"archive_id": archive_id}


# -- one chunk --------------------------------------------------------------------------------------------


async def _chunk_result(
    job: JobContext, archive: Archive, messages: tuple[Said, ...], chunk: Chunk, fresh: bool
) -> ChunkResult:
    said = [
        [piece.message, messages[piece.message].role, text]
        for piece, text in zip(chunk, texts(messages, chunk), strict=True)
    ]
    digest = hashlib.sha256(json.dumps(said, ensure_ascii=False).encode()).hexdigest()
    instructions = prompts.prompt_hash()
    earlier = None if fresh else await job.store.archives.equal_chunk(digest, instructions)
    if earlier is not None:
        known = earlier.result
        return ChunkResult(
            digest, known.sections, "reused", known.dropped, known.model, False, instructions, 0, 0, 0.0
        )
    cost = _Cost()
    extracted, form = await _extract(job, archive, messages, chunk, cost, _MOST_HALVINGS)
    return ChunkResult(
        digest,
        extracted.sections.to_json(),
        form,
        extracted.dropped,
        cost.model,
        cost.practice,
        instructions,
        cost.prompt_tokens,
        cost.completion_tokens,
        cost.duration_ms,
    )


async def _extract(
    job: JobContext, archive: Archive, messages: tuple[Said, ...], chunk: Chunk, cost: _Cost, halvings: int
) -> tuple[Extracted, str]:
    """What a model finds in a chunk; in two halves where it does not fit the model that is there now."""
    try:
        return await _ask_twice(job, archive, messages, chunk, cost)
    except ContextOverflowError:
        halves = halve(messages, chunk) if halvings else [chunk]
        if len(halves) < 2:
            raise
    found = [await _extract(job, archive, messages, half, cost, halvings - 1) for half in halves]
    sections = merge([extracted.sections for extracted, _ in found])
    return Extracted(sections, sum(extracted.dropped for extracted, _ in found)), found[-1][1]


async def _ask_twice(
    job: JobContext, archive: Archive, messages: tuple[Said, ...], chunk: Chunk, cost: _Cost
) -> tuple[Extracted, str]:
    """Under the schema first; where that gives nothing, as plain text under headings: small models of one to
    three billion parameters do better with it.
    """
    numbered = [(piece.message + 1, text) for piece, text in zip(chunk, texts(messages, chunk), strict=True)]
    source = Source.of(numbered)
    problems = []
    best: tuple[Extracted, str] | None = None
    for form in ("schema", "markers"):
        markers = form == "markers"
        answer = await _generate(job, archive, messages, chunk, markers)
        cost.add(answer)
        lines = from_marked_answer(answer.text) if markers else from_json_answer(answer.text)
        if isinstance(lines, NotReadable):
            problems.append(lines.detail)
            continue
        extracted = believe(lines, source, prompts.instructions())
        if extracted.sections.count:
            return extracted, form
        if best is None or (extracted.sections.summary and not best[0].sections.summary):
            best = extracted, form
    if best is not None:
        return best
    if cost.practice:
        return Extracted(Sections(), 0), "none"  # its text has no meaning: nothing is lost
    raise ModelOutputError(
        f"{cost.model} archived a part of this conversation neither as JSON nor as marked text "
        f"({'; '.join(problems)}); another background model may do better",
        model=cost.model or None,
    )


async def _generate(
    job: JobContext, archive: Archive, messages: tuple[Said, ...], chunk: Chunk, markers: bool
) -> Answer:
    return await job.generate(
        BackgroundCall(
            messages=prompts.extraction(archive.raw_sha256, messages, chunk, markers=markers),
            format=None if markers else schema(),
            options={**_OPTIONS, "num_predict": archive.plan["answer_tokens"]},
            think=False,
            prefix_key=f"archive {archive.summary.id} {chunk[0].message} {chunk[0].start}",
            expected_tokens=_EXPECTED_TOKENS,
        )
    )


# -- the whole --------------------------------------------------------------------------------------------


async def _join(
    job: JobContext, archive: Archive, messages: tuple[Said, ...], stored: list[StoredChunk]
) -> StructuredResult:
    parts = [Sections.from_json(one.result.sections) for one in stored]
    sections = merge(parts)
    practice = any(note.get("practice") for note in archive.notes) or any(
        one.result.practice for one in stored
    )
    models = [one.result.model for one in stored if one.result.model]
    cost = _Cost()
    told = [part.summary for part in parts if part.summary]
    if len(told) > 1 and not practice:
        summary = await _summary_of(job, archive, told, cost)
        if summary is not None:
            sections = with_summary(sections, summary)
    models += [cost.model] if cost.model else []
    return StructuredResult(
        structured=sections.to_json(),
        items_count=sections.count,
        dropped=sum(one.result.dropped for one in stored),
        model=", ".join(dict.fromkeys(models))[:400] or None,
        prompt_hash=prompts.prompt_hash(),
        practice=practice,
        search_text=search_text(archive.summary.title, archive.summary.quick_summary, messages, sections),
        prompt_tokens=cost.prompt_tokens,
        completion_tokens=cost.completion_tokens,
        terms=structured_terms(archive.summary.title, messages, sections),
    )


async def _summary_of(job: JobContext, archive: Archive, told: list[str], cost: _Cost) -> str | None:
    """One summary of those of the parts; `None` where the model's says what they do not."""
    room = 4 * archive.plan["answer_tokens"] - prompts.INSTRUCTION_TOKENS
    answer = await job.generate(
        BackgroundCall(
            messages=prompts.merged_summary(archive.raw_sha256, told, max(room, 256)),
            options={**_OPTIONS, "num_predict": _SUMMARY_TOKENS},
            think=False,
            expected_tokens=_SUMMARY_TOKENS // 2,
        )
    )
    cost.add(answer)
    summary = tidy(answer.text, MAX_SUMMARY)
    supported = share_found(summary, stems(" ".join(told))) >= _LEAST_SUMMARY_SUPPORT
    return summary if supported and not is_placeholder(summary) else None


SUMMARISE: JobType[SummariseInput] = JobType(NAME, PRIORITY, SummariseInput, run)
