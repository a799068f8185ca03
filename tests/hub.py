"""A small model hub on loopback: the wire that `huggingface_hub` asks for a file's facts and its bytes."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_BLOCK = 64 * 1024


@dataclass
class FakeHub:
    """`files` by `OWNER/REPO/FILE`. The faults are read at each request, and may be changed at any time."""

    files: dict[str, bytes] = field(default_factory=dict)
    url: str = ""
    store: str = ""  # another host, as the hub's is
    gated: bool = False
    status: int | None = None  # answers every request
    told_sha256: str | None = None  # instead of the right one
    stop_after: int | None = None  # bytes of one answer, then silence until `go_on` is set
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, Range
    stopped: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def ranges(self) -> list[str | None]:
        """What was asked for of the bytes, request by request."""
        return [wanted for method, path, wanted in self.asked if method == "GET" and path.startswith("/cdn/")]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.hub.asked.append((self.command, self.path, self.headers.get("range")))
        if self.hub.status is not None:
            self._say(self.hub.status)
        elif self.path.startswith("/cdn/"):
            self._bytes(self.hub.files[self.path.removeprefix("/cdn/")])
        elif (match := _RESOLVE.fullmatch(self.path)) is None:
            self._say(404)
        elif self.hub.gated:
            self._say(401, {"X-Error-Code": "GatedRepo"})
        elif (content := self.hub.files.get(f"{match['repo']}/{match['file']}")) is None:
            self._say(404, {"X-Error-Code": "EntryNotFound"})
        else:
            # As the hub does: the facts are here, the bytes elsewhere.
            sha256 = self.hub.told_sha256 or hashlib.sha256(content).hexdigest()
            self._say(
                302,
                {
                    "Location": f"{self.hub.store}/cdn/{match['repo']}/{match['file']}",
                    "X-Repo-Commit": COMMIT,
                    "X-Linked-Etag": f'"{sha256}"',
                    "X-Linked-Size": str(len(content)),
                    "ETag": '"of-the-pointer"',
                },
            )

    def _say(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _bytes(self, content: bytes) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range") or "")
        start = int(wanted[1]) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", '"of-the-store"')
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        for at in range(start, len(content), _BLOCK):
            if self.hub.stop_after is not None and at - start >= self.hub.stop_after:
                self.hub.stopped.set()
                self.hub.go_on.wait(60)
            self.wfile.write(content[at : at + _BLOCK])

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the tests read `asked`."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is what the tests are about."""


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve until the block ends; `hub.url` is what `HF_ENDPOINT` is set to."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    with _Server(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        hub.store = f"http://localhost:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield hub
        finally:
            hub.go_on.set()
            server.shutdown()
            thread.join()
