"""`/__control__/`: what a test in another process reads and scripts. Not part of Ollama."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.standin.faults import Fault
from tests.standin.model import StandInModel
from tests.standin.wire import JSON, go_json

if TYPE_CHECKING:
    from tests.standin.ollama import StandInOllama

PREFIX = "/__control__/"


async def answer(server: StandInOllama, request: web.BaseRequest) -> web.Response:
    """Serve one control request; a wrong one is a 400 with the reason, an unknown one a 404."""
    try:
        body = await request.read()
        return _reply(200, await _act(server, request, json.loads(body) if body else None))
    except LookupError as error:
        return _reply(404, {"error": f"no such control: {error}"})
    except (ValueError, TypeError) as error:
        return _reply(400, {"error": str(error)})


async def _act(server: StandInOllama, request: web.BaseRequest, body: Any) -> Any:
    match (request.method, request.path.removeprefix(PREFIX)):
        case ("GET", "log"):
            return [record.as_json() for record in server.log]
        case ("GET", "counters"):
            return vars(server.counters)
        case ("GET", "faults"):
            return [vars(fault) for fault in server.pending_faults]
        case ("POST", "faults"):
            faults = [Fault.from_json(item) for item in (body if isinstance(body, list) else [body])]
            server.add_faults(*faults)
            return {"added": len(faults)}
        case ("POST", "models"):
            models = [StandInModel.from_json(item) for item in (body if isinstance(body, list) else [body])]
            for model in models:
                server.set_model(model)
            return {"set": len(models)}
        case ("POST", "unload"):
            server.unload(body["model"])
            return {}
        case ("POST", "reset"):
            server.reset()
            return {}
        case ("POST", "stop_accepting"):
            await server.stop_accepting()
            return {}
        case ("POST", "resume_accepting"):  # over a connection that was kept open
            await server.resume_accepting()
            return {}
        case ("POST", "drop_connections"):
            return {"dropped": server.drop_all_connections(but=request)}
        case _:
            raise LookupError(f"{request.method} {request.path}")


def _reply(status: int, value: Any) -> web.Response:
    return web.Response(status=status, body=go_json(value), headers={"Content-Type": JSON})
