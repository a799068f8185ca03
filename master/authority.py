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

from common.addresses import own_addresses
from common.errors import SettingsError
from common.logs import get_logger
from common.tls import MASTER_NAME, load_chain, node_name, read_private, server_context, write_private

if TYPE_CHECKING:
    from common.certificates import Authority

FILE = "authority.json"
_LOOK_EVERY_S = 3600.0
_RENEW_EVERY_S = 24 * 3600.0
_log = get_logger(__name__)


class ClusterAuthority:
    """Signs the certificates of the master and of nodes that joined; `context` is the master's own TLS."""

    def __init__(self, authority: Authority, folder: Path, host: str, own: tuple[Path, Path] | None) -> None:
        self._authority = authority
        self._folder = folder
        self._host = host
        self._cluster = server_context(self._new_chain(), folder)
        self._renewed_at = time.time()
        self.context = self._cluster if own is None else self._beside(own)

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

    async def renewing(self) -> None:
        """Give the server a new certificate each day, so that none runs out and new addresses are in it.

        The time is the wall clock's: a PC that slept for a month renews when it wakes.
        """
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            if abs(time.time() - self._renewed_at) > _RENEW_EVERY_S:
                chain = await asyncio.to_thread(self._new_chain)
                await asyncio.to_thread(load_chain, self._cluster, chain, self._folder)
                self._renewed_at = time.time()

    def _new_chain(self) -> str:
        host = socket.gethostname()
        names = [MASTER_NAME, host, f"{host.split('.')[0]}.local", "localhost", self._host, *own_addresses()]
        unspecified = ("0.0.0.0", "::", "")
        chosen = [name for name in dict.fromkeys(names) if name not in unspecified]
        return self._authority.issue_with_key(chosen, datetime.now(UTC))

    def _beside(self, own: tuple[Path, Path]) -> ssl.SSLContext:
        """A context with the person's own certificate, but the cluster's for who asks for its name."""
        certificate, key = own
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(
                f"COUNCIL_TLS_CERT={certificate} with COUNCIL_TLS_KEY={key} cannot be used: {error}"
            ) from error

        def choose(connection: ssl.SSLObject, asked: str | None, _context: ssl.SSLContext) -> None:
            if asked == MASTER_NAME:
                connection.context = self._cluster

        context.sni_callback = choose
        return context


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
