"""A kind of background job: one small file says its name, its urgency, what it takes, and what it does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from common.protocol import Message, ThinkLevel
from master.cluster.calls import Answer
from master.state.store import Store

Json = dict[str, Any] | list[Any] | str | int | float | bool | None
Value = TypeVar("Value", bound=Json)


class JobInput(BaseModel):
    """What a job takes. Small: ids of our own rows rather than texts."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Input = TypeVar("Input", bound=JobInput)


@dataclass(frozen=True, slots=True)
class BackgroundCall:
    """One model call of a job. `model`: the background model of the settings when `None`. `think`: as the
    engine likes when `None`.
    """

    messages: tuple[Message, ...]
    model: str | None = None
    format: Literal["json"] | dict[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    think: ThinkLevel | None = None
    prefix_key: str | None = None
    expected_tokens: int = 256


class JobContext(Protocol):
    """What a running job may ask for. It raises `CouncilError`s; cancellation ends the job at once."""

    @property
    def job_id(self) -> str: ...

    @property
    def store(self) -> Store: ...

    async def step(self, name: str, do: Callable[[], Awaitable[Value]]) -> Value:
        """Do something once: after a crash its recorded value comes back instead.

        `do` is repeated when the crash falls between its own commit and the record, so that it must be
        idempotent against our rows. The value is small: texts are stored in our tables under a key, and the
        step returns the key. Steps are asked for in the same order whenever the job runs.
        """
        ...

    async def generate(self, call: BackgroundCall) -> Answer:
        """One model call in class background, inside a step. It waits for the gate first, and gives its slot
        back to interactive work at any time without the job noticing more than the wait.
        """
        ...

    async def progress(self, done: int, total: int, note: str = "") -> None:
        """Tell people how far the job is, in units of its own (chunks, items)."""
        ...


@dataclass(frozen=True, slots=True)
class JobType(Generic[Input]):
    """`priority`: lower goes first. `long`: it starts only in a long idle time or in the night's window."""

    name: str
    priority: int
    input: type[Input]
    run: Callable[[JobContext, Input], Awaitable[dict[str, Any] | None]]
    long: bool = False
