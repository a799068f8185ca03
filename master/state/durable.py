"""The job engine (DBOS) behind one door: what it remembers for us, and nothing that it decides.

A job is one workflow under the job's id. The engine records what each step returned, so that a job which is
taken up again goes on behind its last finished step. Which job runs, when, where and how often is decided
from our own rows: the engine's order, retries, recovery and schedules stay unused, and losing its file would
cost finished steps, not jobs.

Every process that runs jobs is one executor with an id of its own for each of its lives. So the engine never
takes a job up by itself: who finds a dead executor's rows hands them over again (`hand_over`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from common.errors import CouncilError, InternalError, SettingsError, from_problem
from common.logs import get_logger
from master.state import old_sqlite
from master.state.database import database_file, is_sqlite, parse_address, protect_file
from master.state.storage_errors import translate

if TYPE_CHECKING:
    from dbos import DBOS

APPLICATION_VERSION = "1"  # the default is a hash of the source: every edit would orphan what waits
SCHEMA = "council_jobs"
_APPLICATION = "lan-council"
_WORKFLOW = "job"
_THREADS = 16  # it replaces the loop's default executor as well
_POLL_S = 0.2
_MOST_AT_ONCE = 500
_log = get_logger(__name__)
Value = TypeVar("Value")


class Unfinished(BaseException):
    """Leaves a job without an outcome: it is taken up again later behind its last finished step.

    Not an `Exception`: the engine records those, and a job must not swallow it.
    """


class StepsChangedError(InternalError):
    """The job's program asks for other steps than those that are recorded of it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the engine keeps its rows: a file of its own beside ours, or a schema of its own."""

    url: str
    file: Path | None

    @classmethod
    def beside(cls, url: str) -> Place:
        """The place that belongs to our database at `url`. Raises `SettingsError`."""
        address = parse_address(url)
        if is_sqlite(address):
            file = database_file(address)
            if file is None:
                raise SettingsError("background jobs need a database in a file, or PostgreSQL")
            own = file.with_name(f"{file.stem}-jobs{file.suffix}")
            return cls(f"sqlite:///{own}", own)
        return cls(address.render_as_string(hide_password=False), None)


class Durable:
    """One engine per process. `execute` runs a job by its id to its end, or leaves it by `Unfinished`."""

    def __init__(self, place: Place, executor_id: str, execute: Callable[[str], Awaitable[None]]) -> None:
        self._place = place
        self.executor_id = executor_id
        self._execute = execute
        self._engine: type[DBOS] | None = None
        self._workflow: Callable[[str], Coroutine[Any, Any, None]] | None = None
        self._lock = asyncio.Lock()

    @property
    def is_launched(self) -> bool:
        return self._engine is not None

    async def launch(self) -> None:
        """Start the engine where it does not run yet. Raises storage errors."""
        async with self._lock:
            if self._engine is not None:
                return
            with _Translated():
                # Beside the loop: importing and migrating would hold every chat up for half a second.
                await asyncio.to_thread(_prepare, self._place)
                self._start()
                assert self._engine is not None
                await self._engine.register_queue_async(self.executor_id, polling_interval_sec=_POLL_S)
            _log.info("job engine started", executor=self.executor_id)

    def _start(self) -> None:
        from dbos import DBOS

        execute = self._execute

        async def job(job_id: str) -> None:
            await execute(job_id)

        DBOS(
            config={
                "name": _APPLICATION,
                "system_database_url": self._place.url,
                "dbos_system_schema": SCHEMA,
                "application_version": APPLICATION_VERSION,
                "executor_id": self.executor_id,
                "max_executor_threads": _THREADS,
                "run_migrations": False,
                "enable_otlp": False,
                "log_level": "WARNING",
                "serializer": _serializer(),
                "scheduler_polling_interval_sec": 3600.0,
            }
        )
        try:
            self._workflow = DBOS.workflow(name=_WORKFLOW, max_recovery_attempts=None)(job)
            DBOS.listen_queues([self.executor_id])
            # On the loop's own thread: jobs that are resumed are to run on this loop.
            DBOS.launch()
        except BaseException:
            DBOS.destroy(destroy_registry=True)
            raise
        self._engine = DBOS

    async def close(self) -> None:
        """Stop the engine; `launch` may start it again. No job of this process may run any more."""
        async with self._lock:
            if self._engine is None:
                return
            engine, self._engine = self._engine, None
            # The engine made its own threads the loop's, and takes them along.
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(thread_name_prefix="asyncio"))
            try:
                with _Translated():
                    await asyncio.to_thread(_stop, engine, self.executor_id)
            except CouncilError as error:
                _log.warning("job engine not stopped in order", code=error.code, detail=error.detail)

    async def hand_over(self, job_id: str, *, known: bool, again: bool = False) -> None:
        """Have a job run on this loop, behind its last finished step.

        `known`: it was handed over before, perhaps by an executor that died over it. `again`: a person wants
        its failed step repeated. Raises storage errors.
        """
        await self.launch()
        engine, workflow = self._engine, self._workflow
        assert engine is not None and workflow is not None  # noqa: PT018
        from dbos import SetWorkflowID

        with _Translated():
            status = await engine.get_workflow_status_async(job_id) if known else None
            if status is None:
                with SetWorkflowID(job_id):
                    await engine.start_workflow_async(workflow, job_id)
            elif again or status.status not in ("PENDING", "ENQUEUED", "CANCELLED", "DELAYED"):
                await engine.cancel_workflow_async(job_id)
                await engine.rewind_workflow_async(
                    job_id, start_step=await self._failed_step(job_id), queue_name=self.executor_id
                )
            else:
                await engine.resume_workflow_async(job_id, queue_name=self.executor_id)

    async def _failed_step(self, job_id: str) -> int:
        assert self._engine is not None
        steps = await self._engine.list_workflow_steps_async(job_id)
        failed = [one["function_id"] for one in steps if one["error"] is not None]
        return max(failed) if failed else max((one["function_id"] for one in steps), default=0) + 1

    async def step(self, name: str, do: Callable[[], Awaitable[Value]]) -> Value:
        """Within a job: do something and record what it returned, or give what was recorded of it.

        Raises what `do` raised, now or when that was recorded, and `StepsChangedError`.
        """
        engine = self._engine
        if engine is None:
            raise Unfinished
        from dbos import error as engine_errors

        async def body() -> Value:
            return await do()

        try:
            with _Translated():
                return await engine.run_step_async({"name": name}, body)
        except engine_errors.DBOSUnexpectedStepError as error:
            raise StepsChangedError(
                f"the steps of this job are others than those recorded: {error}"
            ) from error

    async def forget(self, job_ids: Sequence[str]) -> None:
        """Delete what is recorded of these jobs. Raises storage errors."""
        await self.launch()
        assert self._engine is not None
        with _Translated():
            for start in range(0, len(job_ids), _MOST_AT_ONCE):
                await self._engine.delete_workflows_async(list(job_ids[start : start + _MOST_AT_ONCE]))


class _Translated:
    """Turns the engine's storage errors into ours."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, SQLAlchemyError | sqlite3.Error):
            raise translate(error) from error


def _prepare(place: Place) -> None:
    """Import the engine, keep it quiet, and bring its tables up to date."""
    logger = logging.getLogger("dbos")
    if not any(isinstance(one, logging.NullHandler) for one in logger.handlers):
        # With a handler of ours it brings none of its own, and what it says goes where our logs go.
        logger.addHandler(logging.NullHandler())
        logger.addFilter(_worth_a_line)
        logger.setLevel(logging.WARNING)  # it migrates, aloud, before it reads its own setting
    from dbos import DBOS

    if place.file is not None:
        old_sqlite.teach()
        protect_file(place.file)
        with closing(sqlite3.connect(place.file, timeout=10.0)) as raw:
            raw.execute("PRAGMA journal_mode=WAL")  # five times the steps per second
    DBOS.migrate(place.url, schema=SCHEMA)


def _stop(engine: type[DBOS], queue: str) -> None:
    try:
        engine.delete_queue(queue)
    finally:
        engine.destroy(destroy_registry=True)


def _worth_a_line(record: logging.LogRecord) -> bool:
    """No traces: what goes wrong reaches us as an exception. No word of jobs that we stop ourselves."""
    record.exc_info = None
    record.exc_text = None
    return not str(record.msg).startswith("Asyncio task cancelled")


def _serializer() -> Any:
    from dbos import Serializer

    class JsonSerializer(Serializer):
        """JSON for values and errors alike: the default (pickle) would run what somebody wrote there."""

        def serialize(self, data: Any) -> str:
            return encode(data)

        def deserialize(self, serialized_data: str) -> Any:
            return decode(serialized_data)

        def name(self) -> str:
            return "council_json"

    return JsonSerializer()


_ERROR = "__error__"


def encode(value: Any) -> str:
    """A step's value or error as JSON. Raises `TypeError` for what is neither."""
    if isinstance(value, CouncilError):
        value = {_ERROR: value.to_problem()}
    elif isinstance(value, BaseException):
        value = {_ERROR: InternalError(f"{type(value).__name__}: {value}").to_problem()}
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def decode(text: str) -> Any:
    """The value again, or the error as one of our tree."""
    value = json.loads(text)
    if isinstance(value, dict) and value.keys() == {_ERROR}:
        return from_problem(value[_ERROR])
    return value
