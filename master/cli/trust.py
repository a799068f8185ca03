"""Which certificates the command accepts: the system's, this machine's own authority, and `COUNCIL_CA`.

A master may show a person's certificate, which names neither 127.0.0.1 nor an address of the LAN. Who knows
the cluster's authority asks for the cluster's own instead, by the name that is in no DNS.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from common.tls import MASTER_NAME
from master.cli.failure import CommandFailedError

ENVIRONMENT = "COUNCIL_CA"
HINT = (
    "on the master's PC: `council config export-ca > council-ca.pem`; bring that file here and set "
    "COUNCIL_CA=council-ca.pem"
)


def verify(url: str, data_dir: Path | None = None) -> ssl.SSLContext | bool:
    """What httpx and websockets check a master's certificate with; `False` where there is none.

    `data_dir`: the folder whose authority is trusted as well; the one of the settings when not given. Raises
    `CommandFailedError` when `COUNCIL_CA` names no certificate.
    """
    if not url.startswith(("https://", "wss://")):
        return False
    context = ssl.create_default_context()
    _load_ours(context, data_dir)
    return context


def by_name(data_dir: Path | None = None) -> ssl.SSLContext | None:
    """Like `verify`, for a master's certificate of the cluster, whatever address was dialled; `None` where
    no authority is known that could have signed it.
    """
    context = _ByName(ssl.PROTOCOL_TLS_CLIENT)
    return context if _load_ours(context, data_dir) else None


class _ByName(ssl.SSLContext):
    """Asks every peer for the master's own name, and accepts no other."""

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        return super().wrap_bio(incoming, outgoing, server_side, MASTER_NAME, session)


def _load_ours(context: ssl.SSLContext, data_dir: Path | None) -> bool:
    """Trust the folder's authority and the named one; whether there was any."""
    from master.authority import read_certificate
    from master.cli.addresses import load_settings

    own = read_certificate(data_dir or load_settings().data_dir)
    if own is not None:
        context.load_verify_locations(cadata=own)
    named = os.environ.get(ENVIRONMENT)
    if named:
        try:
            context.load_verify_locations(cafile=named)
        except (OSError, ssl.SSLError) as error:
            raise CommandFailedError(f"{ENVIRONMENT}={named} is no certificate that can be read") from error
    return own is not None or bool(named)


def is_untrusted(error: BaseException) -> bool:
    """Whether a call failed because the peer's certificate is not trusted here."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, ssl.SSLCertVerificationError):
            return True
        found = found.__cause__ or found.__context__
    # httpx keeps the words of the error, not always the error.
    return "CERTIFICATE_VERIFY_FAILED" in str(error)
