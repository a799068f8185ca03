"""The one interface of every engine.

An engine translates: our `GenerateRequest` in, `EngineEvent`s out, every foreign failure into one error of
`common/errors.py`. It holds no queue (that is `worker_node/admission.py`) and no deadline of ours.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from common.protocol import Channel, EngineInfo, EngineName, GenerateRequest, ModelInfo
from common.usage import TokenUsage


@dataclass(frozen=True, slots=True)
class Text:
    """What one read from the engine brought on one channel; never empty.

    `ends`: the same read brought the end of the answer, so that `Finished` follows at once.
    """

    channel: Channel
    text: str
    ends: bool = False


@dataclass(frozen=True, slots=True)
class Finished:
    """The engine's own account of the call. Milliseconds; what the engine does not tell is `None`.

    `queue_ms` is the wait inside the engine for a slot of a loaded model.
    """

    done_reason: str
    token_usage: TokenUsage
    load_ms: float | None = None
    prompt_ms: float | None = None
    generate_ms: float | None = None
    queue_ms: float | None = None


EngineEvent = Text | Finished


@dataclass(frozen=True, slots=True)
class Embedded:
    embeddings: list[list[float]]
    token_usage: TokenUsage


@dataclass(frozen=True, slots=True)
class PullProgress:
    """`completed` and `total` are bytes, `None` where the engine does not tell; `licence` is the model's."""

    status: str
    completed: int | None = None
    total: int | None = None
    licence: str | None = None


@dataclass(slots=True)
class ModelLimits:
    """What bounds one engine: from `OLLAMA_NUM_PARALLEL`, `OLLAMA_MAX_LOADED_MODELS` and the node's context.

    `context_length` is the tokens of one slot and constant per model: a changed one makes engines reload;
    `by_model` sets another one for single models.
    """

    num_parallel: int = 5
    max_loaded_models: int = 5
    context_length: int = 8192
    by_model: dict[str, int] = field(default_factory=dict)


class Engine(ABC):
    """One engine of a node. All methods but the properties may raise `CouncilError`s and nothing else."""

    name: EngineName
    kind: str

    @abstractmethod
    async def start(self) -> None:
        """Open clients or child processes. An engine that is not there yet is no error: health tells it."""

    @abstractmethod
    async def stop(self) -> None:
        """Close everything that `start` and the calls opened."""

    @abstractmethod
    async def info(self) -> EngineInfo:
        """Ask the engine whether it lives; never raises."""

    @abstractmethod
    async def models(self) -> list[ModelInfo]:
        """Every model that can be called, with residency. Raises `EngineUnavailableError`."""

    @abstractmethod
    async def load(self, model: str) -> float:
        """Make the model resident and return the milliseconds it took (0.0 when it was).

        The load goes on when the caller is cancelled: engines abort a load whose client hangs up.
        """

    @abstractmethod
    async def unload(self, model: str) -> None: ...

    @abstractmethod
    def generate(self, request: GenerateRequest) -> AsyncIterator[EngineEvent]:
        """Stream one call of a resident model: `Text`s and exactly one `Finished`, or an error.

        Closing the iterator cancels the call in the engine; after `Finished` it reads what is left of the
        body, so that the connection is kept. An end without the engine's last message is a `StreamCutError`.
        """

    @abstractmethod
    async def embed(self, model: str, texts: list[str]) -> Embedded: ...

    @abstractmethod
    def pull(self, model: str) -> AsyncIterator[PullProgress]:
        """Fetch a model. Raises `NotSupportedError` where the engine cannot."""

    def process_ids(self) -> list[int]:
        """The processes of this engine on this machine, for `/health/system`."""
        return []
