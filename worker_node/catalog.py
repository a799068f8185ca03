"""What the models of one engine are known to be, without asking the engine for each call.

Health polls and calls share one list that is at most a second old when it is shown, and one engine query at
a time. For a call, older knowledge is enough: that a model exists, and that it was resident when last used.
If that is wrong the engine says so, or loads the model inside the call.
"""

from __future__ import annotations

import asyncio
import time

from common.errors import EngineBusyError, EngineUnavailableError, ModelNotFoundError
from common.protocol import EngineInfo, ModelInfo
from worker_node.engines.base import Engine

FRESH_S = 1.0
KNOWN_S = 30.0  # a model that was listed this recently is taken to exist still
RESIDENT_S = 60.0  # well below the five minutes that Ollama keeps an idle model by default


class Catalog:
    """The cached model list and health of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._by_name: dict[str, ModelInfo] = {}
        self._listed_at = float("-inf")
        self._listing = asyncio.Lock()
        self._info: EngineInfo | None = None
        self._info_at = float("-inf")
        self._asking = asyncio.Lock()
        self._resident_until: dict[str, float] = {}

    async def models(self, max_age_s: float = FRESH_S) -> list[ModelInfo]:
        """The models, at most `max_age_s` old. Raises what the engine's `models` raises."""
        if time.monotonic() - self._listed_at > max_age_s:
            async with self._listing:
                if time.monotonic() - self._listed_at > max_age_s:
                    listed = await self._engine.models()
                    self._by_name = {model.name: model for model in listed}
                    self._listed_at = time.monotonic()
        return list(self._by_name.values())

    async def info(self) -> EngineInfo:
        """The engine's health, at most a second old."""
        if self._info is None or time.monotonic() - self._info_at > FRESH_S:
            async with self._asking:
                if self._info is None or time.monotonic() - self._info_at > FRESH_S:
                    self._info = await self._engine.info()
                    self._info_at = time.monotonic()
        return self._info

    async def find(self, name: str) -> ModelInfo:
        """The model that the engine would take for `name`.

        Raises `ModelNotFoundError`, or what the engine's `models` raises.
        """
        if time.monotonic() - self._listed_at <= KNOWN_S and (known := self._match(name)) is not None:
            return known
        try:
            await self.models()
        except (EngineUnavailableError, EngineBusyError):
            # An engine too busy to list its models may still serve them; one that is gone says so itself.
            if (known := self._match(name)) is not None:
                return known
            raise
        found = self._match(name)
        if found is None:
            have = ", ".join(sorted(self._by_name)[:20]) or "none"
            raise ModelNotFoundError(f"this node has no model {name}; it has: {have}", model=name)
        return found

    def _match(self, name: str) -> ModelInfo | None:
        """Ollama's rule: the tag `latest` may be left out, and case does not matter."""
        exact = self._by_name.get(name)
        if exact is not None:
            return exact
        wanted = name if ":" in name.rpartition("/")[2] else f"{name}:latest"
        folded = {name.casefold(), wanted.casefold()}
        for known in self._by_name.values():
            if known.name.casefold() in folded:
                return known
        return None

    def is_resident(self, model: ModelInfo) -> bool:
        """Whether the model is believed to be loaded."""
        now = time.monotonic()
        if self._resident_until.get(model.name, 0.0) > now:
            return True
        return model.resident and now - self._listed_at <= KNOWN_S

    def note_use(self, model: str) -> None:
        """The model just answered: it is resident."""
        self._resident_until[model] = time.monotonic() + RESIDENT_S

    def forget_residency(self) -> None:
        """A load or an unload may have changed what is resident; a failure may have, too."""
        self._resident_until.clear()
        self._listed_at = float("-inf")
