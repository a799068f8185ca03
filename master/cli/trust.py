"""Which certificates the command accepts: the system's, this machine's own authority, and `COUNCIL_CA`."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

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
    from master.authority import read_certificate
    from master.cli.addresses import load_settings

    context = ssl.create_default_context()
    own = read_certificate(data_dir or load_settings().data_dir)
    if own is not None:
        context.load_verify_locations(cadata=own)
    named = os.environ.get(ENVIRONMENT)
    if named:
        try:
            context.load_verify_locations(cafile=named)
        except (OSError, ssl.SSLError) as error:
            raise CommandFailedError(f"{ENVIRONMENT}={named} is no certificate that can be read") from error
    return context


def is_untrusted(error: BaseException) -> bool:
    """Whether a call failed because the peer's certificate is not trusted here."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, ssl.SSLCertVerificationError):
            return True
        found = found.__cause__ or found.__context__
    # httpx keeps the words of the error, not always the error.
    return "CERTIFICATE_VERIFY_FAILED" in str(error)
