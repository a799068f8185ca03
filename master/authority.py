"""The cluster's certificate authority on the master: made once, kept in the data folder, used to sign."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from common.addresses import UNSPECIFIED, own_addresses
from common.errors import SettingsError
from common.logs import get_logger
from common.tls import (
    MASTER_NAME,
    changing_context,
    new_server_context,
    node_name,
    read_private,
    server_context,
    write_private,
)

if TYPE_CHECKING:
    from common.certificates import Authority

FILE = "authority.json"
_LOOK_EVERY_S = 60.0
_RENEW_EVERY_S = 24 * 3600.0
_RETRY_S = 3600.0
_log = get_logger(__name__)


class ClusterAuthority:
    """Signs the certificates of the master and of nodes that joined; `context` is the master's own TLS."""

    def __init__(self, authority: Authority, folder: Path, host: str, own: tuple[Path, Path] | None) -> None:
        self._authority = authority
        self._folder = folder
        self._host = host
        self._cluster = server_context(self._new_chain(), folder)
        self._renewed_at = self._tried_at = time.time()
        self._own = None if own is None else OwnCertificate(*own)
        self.context = changing_context(self._for)

    @classmethod
    def open(cls, folder: Path, *, host: str, own: tuple[Path, Path] | None = None) -> ClusterAuthority:
        """The authority of this data folder; made when there is none.

        `own`: a certificate chain and private key that people's browsers trust already; nodes still see the
        cluster's. Raises `SettingsError` when a file cannot be used.
        """
        return cls(open_authority(folder), folder, host, own)

    @property
    def certificate(self) -> str:
        return self._authority.certificate

    @property
    def fingerprint(self) -> str:
        return self._authority.fingerprint

    def sign_node(self, request: str, name: str) -> str:
        """A node's certificate and the authority's (PEM). Raises `InvalidRequestError`."""
        return self._authority.sign_request(request, [node_name(name)], datetime.now(UTC)) + self.certificate

    async def renewing(
        self,
        *,
        look_every_s: float = _LOOK_EVERY_S,
        renew_every_s: float = _RENEW_EVERY_S,
        retry_s: float = _RETRY_S,
    ) -> None:
        """Give the server a new certificate each day, so that none runs out and new addresses are in it, and
        the person's own when its files have changed. What fails is logged, and tried again.

        The time is the wall clock's: a PC that slept for a month renews when it wakes.
        """
        while True:
            await asyncio.sleep(look_every_s)
            now = time.time()
            try:
                if abs(now - self._renewed_at) > renew_every_s and abs(now - self._tried_at) > retry_s:
                    self._tried_at = now
                    await asyncio.to_thread(self._renew)
                if self._own is not None:
                    await asyncio.to_thread(self._own.follow)
            except Exception:
                _log.exception("the master's certificate was not renewed", again_in_s=retry_s)

    def _renew(self) -> None:
        self._cluster = server_context(self._new_chain(), self._folder)
        self._renewed_at = time.time()

    def _new_chain(self) -> str:
        host = socket.gethostname()
        names = [MASTER_NAME, host, f"{host.split('.')[0]}.local", "localhost", self._host, *own_addresses()]
        self._warn_of_refused(host)
        chosen = [name for name in dict.fromkeys(names) if name not in UNSPECIFIED]
        return self._authority.issue_with_key(chosen, datetime.now(UTC))

    def _warn_of_refused(self, host: str) -> None:
        """Which of the names that people type are not in the certificate, as after this PC was renamed."""
        for name in dict.fromkeys((host, self._host)):
            if name not in UNSPECIFIED and not self._authority.may_sign(name):
                _log.warning(
                    "the cluster's certificate cannot name this PC so, and browsers will refuse that name",
                    name=name,
                    try_instead=f"{host.split('.')[0]}.local, or an address of this PC",
                    to_change_it=f"stop the master and move {self._folder / FILE} away: it makes a new "
                    "authority, which every browser has to import and every node has to join anew",
                )

    def _for(self, asked: str | None) -> ssl.SSLContext:
        """The person's own certificate where there is one, but the cluster's for who asks for its name."""
        return self._cluster if self._own is None or asked == MASTER_NAME else self._own.context


class OwnCertificate:
    """A person's certificate chain and private key in files, which a program of theirs renews.

    `context` is of the last files that could be used. Raises `SettingsError` when the first ones cannot.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        self._seen = self._state()
        self.context = self._load()

    def _load(self) -> ssl.SSLContext:
        """A context with what the files hold now. Raises `SettingsError`."""
        context = new_server_context()
        try:
            context.load_cert_chain(self._certificate, self._key)
        except (OSError, ssl.SSLError) as error:
            files = f"COUNCIL_TLS_CERT={self._certificate} with COUNCIL_TLS_KEY={self._key}"
            raise SettingsError(f"{files} cannot be used: {error}") from error
        return context

    def follow(self) -> None:
        """Serve what the files hold now, if they changed; files that cannot be used change nothing."""
        state = self._state()
        if state == self._seen:
            return
        self._seen = state
        try:
            self.context = self._load()
        except SettingsError as error:
            _log.warning("the certificate of before is served on", reason=error.detail)
        else:
            _log.info("certificate read anew", file=str(self._certificate))

    def _state(self) -> list[tuple[int, int, int] | None]:
        """What changes with the files, whether they are written or replaced."""
        return [_file_state(self._certificate), _file_state(self._key)]


def _file_state(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def open_authority(folder: Path) -> Authority:
    """Read the authority, or make it. Its private key is in a file of mode 0600."""
    from common.certificates import Authority

    kept = read_private(folder / FILE)
    if kept is not None:
        try:
            fields = json.loads(kept)
            return Authority(str(fields["certificate"]), str(fields["key"]))
        except (ValueError, KeyError, TypeError) as error:
            raise SettingsError(f"{folder / FILE} is damaged; restore it from a copy") from error
    made = Authority.make(socket.gethostname(), own_addresses(), now=datetime.now(UTC))
    write_private(folder / FILE, json.dumps({"certificate": made.certificate, "key": made.key}))
    _log.info("certificate authority made", fingerprint=made.fingerprint)
    return made


def read_certificate(folder: Path) -> str | None:
    """The authority's certificate, for who only wants to trust it; `None` when there is no authority."""
    try:
        kept = read_private(folder / FILE)
        return str(json.loads(kept)["certificate"]) if kept is not None else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
