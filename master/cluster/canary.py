"""Health by generating: one token from a node whose calls have failed, however green its health is.

It asks for nobody, so it takes nothing from anybody: it goes as background, which ends no job, and not where
a call of ours writes already. An engine that is busy lets it wait, which says nothing of its health.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Literal

from common.errors import CouncilError, NodeDrainingError, QueueFullError, RetryableError
from common.logs import get_logger
from common.protocol import Delta, Done, EngineName, Failed, GenerateRequest, ModelInfo, Queued, Waiting

if TYPE_CHECKING:
    from master.cluster.node import Node

PROMPT = "Say yes."
WITHIN_S = 5.0
WROTE_WITHIN_S = 2.0  # text this recent shows what a canary would

Song = Literal["sang", "silent", "waited"]
_log = get_logger(__name__)


async def sing(node: Node, engine: EngineName = "main") -> bool:
    """Probe an engine that has failed and may be tried. True when it was probed; its breaker knows how.

    Only a model that is loaded is asked: where none is, the next call is the probe.
    """
    now = time.monotonic()
    breaker = node.breaker_on(engine)
    if breaker.failures == 0 or not breaker.allows(now):
        return False
    if now - node.wrote_at.get(engine, float("-inf")) < WROTE_WITHIN_S:
        return False  # the call that writes will tell at its end
    model = next((one for one in node.models_on(engine) if one.resident and _writes(one)), None)
    if model is None:
        return False
    breaker.sent(now)
    try:
        async with asyncio.timeout(WITHIN_S):
            song = await _one_token(node, engine, model.name)
    except (QueueFullError, NodeDrainingError):
        breaker.returned()
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
        match song:
            case "sang":
                breaker.succeeded()
            case "silent":
                breaker.failed(time.monotonic())
            case "waited":
                breaker.returned()
    return True


async def _one_token(node: Node, engine: EngineName, model: str) -> Song:
    request = GenerateRequest(
        model=model,
        engine=engine,
        prompt=PROMPT,
        options={"num_predict": 1},
        call_class="background",
        deadline_ms=round(WITHIN_S * 1000),
        request_id=f"canary/{node.name}",
    )
    async with await node.client.generate(node.client.written(request), traceparent=None) as answer:
        while messages := await answer.read():
            for message in messages:
                match message:
                    case Delta() | Done():
                        return "sang"
                    case Failed():
                        return "silent"
                    case Queued() | Waiting("queue" | "load"):
                        return "waited"
    return "silent"


def _writes(model: ModelInfo) -> bool:
    return not model.capabilities or "completion" in model.capabilities
