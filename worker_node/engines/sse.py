"""Server-sent events as the OpenAI-compatible servers write them: `data:` lines, comments, `[DONE]`."""

from __future__ import annotations

from common.protocol import LineSplitter

_DATA = b"data:"
_DONE = b"[DONE]"


class EventReader:
    """Cuts reads into the payloads of events; `ended` is set by `[DONE]`.

    The servers write each payload on one line, so an event is a line. Raises `ValueError` for an endless one.
    """

    def __init__(self) -> None:
        self._splitter = LineSplitter()
        self.ended = False

    def feed(self, data: bytes) -> list[bytes]:
        """The payloads that this read completed."""
        return self._payloads(self._splitter.feed(data))

    def rest(self) -> list[bytes]:
        """The payload of a last line without its newline."""
        return self._payloads([self._splitter.rest])

    def _payloads(self, lines: list[bytes]) -> list[bytes]:
        found: list[bytes] = []
        for line in lines:
            if not line.startswith(_DATA):
                continue  # a comment that keeps the connection alive, or `event:`, `id:`, `retry:`
            payload = line[len(_DATA) :].strip()
            if payload == _DONE:
                self.ended = True
            elif payload:
                found.append(payload)
        return found
