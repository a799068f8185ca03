"""Who a program talks to: pinned authorities, fingerprints and TLS contexts. The standard library only.

Certificates of a cluster carry names of their own, `master.council.internal` and one for each node, and our
programs ask for these: an address may change, and a node's certificate never passes for the master's.
`common.certificates` makes the certificates.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import ssl
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.errors import InvalidRequestError
from common.private import keep_private

MASTER_NAME = "master.council.internal"


def node_name(name: str) -> str:
    """The name that the certificate of a node carries; any node's name makes a valid one."""
    return f"node-{hashlib.sha256(name.encode()).hexdigest()[:32]}.council.internal"


@dataclass(frozen=True, slots=True)
class Trust:
    """What a client accepts of its peer: a chain to `context`'s authority for `server_name`, or else the one
    certificate whose SHA-256 is `fingerprint`, or else what the system's authorities vouch for.
    """

    context: ssl.SSLContext | None = None
    server_name: str | None = None
    fingerprint: bytes | None = None
    unverified: bool = False

    @classmethod
    def of_authority(cls, certificate_pem: str, server_name: str) -> Trust:
        """Trust what this authority signed for that name, and no other authority."""
        return cls(ssl.create_default_context(cadata=certificate_pem), server_name)

    @classmethod
    def of_fingerprint(cls, text: str) -> Trust:
        """Trust one certificate. Raises `InvalidRequestError` when `text` is no fingerprint."""
        return cls(fingerprint=parse_fingerprint(text))

    @classmethod
    def of_anybody(cls) -> Trust:
        """Check nothing: only to fetch what is compared with a fingerprint before it is used."""
        return cls(unverified=True)


def fingerprint_of(certificate_pem: str) -> str:
    """The SHA-256 of a certificate, in hex."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate_pem)).hexdigest()


def parse_fingerprint(text: str) -> bytes:
    """32 bytes from hex with or without colons, or from base64url. Raises `InvalidRequestError`."""
    plain = text.strip().removeprefix("sha256:").replace(":", "")
    try:
        found = bytes.fromhex(plain) if len(plain) == 64 else base64.urlsafe_b64decode(plain + "=")
    except (ValueError, binascii.Error):
        found = b""
    if len(found) != 32:
        raise InvalidRequestError(f"{text!r} is no SHA-256 fingerprint: 64 hexadecimal digits")
    return found


def short_fingerprint(fingerprint: str) -> str:
    """43 characters for a command line, of the hex form."""
    return base64.urlsafe_b64encode(bytes.fromhex(fingerprint)).decode().rstrip("=")


def server_context(chain_pem: str, folder: Path) -> ssl.SSLContext:
    """A server's context with its private key and chain (PEM, in one text); `ssl` reads files only."""
    context = new_server_context()
    with _brief_file(chain_pem, folder) as file:
        context.load_cert_chain(file)
    return context


def new_server_context() -> ssl.SSLContext:
    """A server's context that has no certificate yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def changing_context(choose: Callable[[str | None], ssl.SSLContext]) -> ssl.SSLContext:
    """A server's context that shows, on each connection, the certificate of the one that `choose` returns for
    the name that was asked for.

    A server's certificate is changed in this way alone: `load_cert_chain` on a context that serves pulls the
    old certificate from under a handshake that runs, which fails then, or ends the whole process.
    """

    def show(connection: ssl.SSLObject, asked: str | None, _context: ssl.SSLContext) -> None:
        connection.context = choose(asked)

    context = new_server_context()
    context.sni_callback = show
    return context


class ReplacedCertificate:
    """A server's own key and chain, replaced by newer ones while it serves through `context`."""

    def __init__(self, chain_pem: str, folder: Path) -> None:
        self._folder = folder
        self._newest = server_context(chain_pem, folder)
        self.context = changing_context(lambda _asked: self._newest)

    def replace(self, chain_pem: str) -> None:
        """Show this chain on every connection from now on. Reads and writes files."""
        self._newest = server_context(chain_pem, self._folder)


@contextmanager
def _brief_file(text: str, folder: Path) -> Iterator[str]:
    handle, name = tempfile.mkstemp(prefix=".tls-", dir=folder)  # made with mode 0600
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(text)
        yield name
    finally:
        os.unlink(name)


def read_private(path: Path) -> str | None:
    """The text of a file that `write_private` made; `None` when there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def write_private(path: Path, text: str) -> None:
    """Write whole or not at all, for the owner's eyes only: mode 0600, or the folder's access list."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    keep_private(path.parent)
    handle, part = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if sys.platform != "win32":
            os.chmod(part, 0o600)
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise


def explain(error: BaseException | None) -> str | None:
    """Why a TLS connection was refused, in words; `None` when that was not the reason."""
    import aiohttp

    chain: list[BaseException] = []
    while error is not None:
        chain.append(error)
        error = error.__cause__ or error.__context__
    for one in reversed(chain):  # aiohttp's errors are `ssl`'s by name, and have lost their words
        if isinstance(one, aiohttp.ServerFingerprintMismatch):
            return f"its certificate has the fingerprint {one.got.hex()}, which is not the expected one"
        if isinstance(one, ssl.SSLCertVerificationError):
            words = getattr(one, "verify_message", None) or one
            return f"its certificate is not of this cluster ({words})"
        if isinstance(one, ssl.SSLError):
            return f"it does not speak TLS as expected ({getattr(one, 'reason', None) or one})"
    return None
