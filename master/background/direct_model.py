"""Background calls straight to the dispatcher, in class background."""

from __future__ import annotations

from dataclasses import replace

from common.errors import ModelUnavailableError
from master.cluster.calls import Answer, Call, CallWatcher
from master.cluster.dispatch import Dispatcher


class DirectModel:
    """`model` is the one of calls that name none."""

    def __init__(self, dispatcher: Dispatcher, *, model: str | None) -> None:
        self._dispatcher = dispatcher
        self._model = model

    async def run(self, call: Call, watcher: CallWatcher) -> Answer:
        model = call.model or self._model
        if not model:
            raise ModelUnavailableError("no model is set for background work; set OLLAMA_BACKGROUND_MODEL")
        return await self._dispatcher.run(replace(call, model=model, call_class="background"), watcher)
