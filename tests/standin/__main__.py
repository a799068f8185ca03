"""The stand-in as a process: `python -m tests.standin --port 0 --config JSON`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from tests.standin.faults import Fault
from tests.standin.model import StandInModel
from tests.standin.ollama import StandInOllama


def server_from_config(config: dict[str, Any], host: str, port: int) -> StandInOllama:
    """The server of a JSON config: the keyword arguments of `StandInOllama`, models and faults as objects."""
    given = dict(config)
    for name in ("models", "registry"):
        if name in given:
            given[name] = [StandInModel.from_json(item) for item in given[name]]
    given["faults"] = [Fault.from_json(item) for item in given.get("faults", [])]
    return StandInOllama(**{"host": host, "port": port, **given})


async def serve(server: StandInOllama, *, exit_with_parent: bool) -> None:
    """Serve until SIGTERM or SIGINT, or until stdin closes if `exit_with_parent`."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()

    def stop(*_: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop may be closed already
            loop.call_soon_threadsafe(stopped.set)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if exit_with_parent:
        threading.Thread(target=_wait_for_end_of_stdin, args=(stop,), daemon=True).start()
    async with server:
        sys.stdout.write(json.dumps({"base_url": server.base_url}) + "\n")
        sys.stdout.flush()
        await stopped.wait()


def _wait_for_end_of_stdin(stop: Any) -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 4096):  # not sys.stdin: its lock would block the exit
            pass
    stop()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.standin", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--config", default="{}", help="JSON text, or the path of a JSON file")
    parser.add_argument("--exit-with-parent", action="store_true", help="stop when stdin closes")
    arguments = parser.parse_args()
    text = arguments.config
    if not text.lstrip().startswith("{"):
        text = Path(text).read_text(encoding="utf-8")
    server = server_from_config(json.loads(text), arguments.host, arguments.port)
    asyncio.run(serve(server, exit_with_parent=arguments.exit_with_parent))


if __name__ == "__main__":
    main()
