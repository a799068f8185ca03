"""A master that gives a socket three seconds to take an event, so that a test need not wait for 20.

It logs with which code it closes a socket.
"""

from __future__ import annotations

import sys

from fastapi import WebSocket

from common.logs import get_logger
from master import main
from master.api import events

_close = WebSocket.close


async def _told(socket: WebSocket, code: int = 1000, reason: str | None = None) -> None:
    get_logger(__name__).info("socket closed", code=code)
    await _close(socket, code, reason)


if __name__ == "__main__":
    events._SEND_TIMEOUT_S = 3.0
    WebSocket.close = _told  # type: ignore[assignment, method-assign]
    sys.exit(main.main())
