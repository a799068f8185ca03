"""Health by generating: one token from a node whose calls have failed, however green its health is."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from common.errors import CouncilError, RetryableError
from common.logs import get_logger
from common.protocol import Delta, Done, EngineName, Failed, GenerateRequest, ModelInfo

if TYPE_CHECKING:
    from master.cluster.node import Node

PROMPT = "Say yes."
WITHIN_S = 5.0
_log = get_logger(__name__)


async def sing(node: Node, engine: EngineName = "main") -> bool:
    """Probe an engine that has failed and may be tried. True when it was probed; its breaker knows how.

    Only a model that is loaded is asked: where none is, the next call is the probe.
    """
    now = time.monotonic()
    breaker = node.breaker_on(engine)
    if breaker.failures == 0 or not breaker.allows(now):
        return False
    model = next((one for one in node.models_on(engine) if one.resident and _writes(one)), None)
    if model is None:
        return False
    breaker.sent(now)
    try:
        async with asyncio.timeout(WITHIN_S):
            sang = await _one_token(node, engine, model.name)
    except (TimeoutError, RetryableError) as error:
        _log.info(
            "canary failed", node=node.name, engine=engine, model=model.name, error=type(error).__name__
        )
        breaker.failed(time.monotonic())
    except CouncilError:
        breaker.returned()
    except BaseException:
        breaker.returned()
        raise
    else:
        if sang:
            breaker.succeeded()
        else:
            breaker.failed(time.monotonic())
    return True


async def _one_token(node: Node, engine: EngineName, model: str) -> bool:
    request = GenerateRequest(
        model=model,
        engine=engine,
        prompt=PROMPT,
        options={"num_predict": 1},
        deadline_ms=round(WITHIN_S * 1000),
        request_id=f"canary/{node.name}",
    )
    async with await node.client.generate(node.client.written(request), traceparent=None) as answer:
        while messages := await answer.read():
            for message in messages:
                if isinstance(message, Delta | Done):
                    return True
                if isinstance(message, Failed):
                    return False
    return False


def _writes(model: ModelInfo) -> bool:
    return not model.capabilities or "completion" in model.capabilities
