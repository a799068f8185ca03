"""What the cluster's authority signs, and what nobody believes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.certificates import Authority, certificate_request, expires_at, new_private_key
from common.errors import InvalidRequestError
from common.tls import (
    ReplacedCertificate,
    Trust,
    fingerprint_of,
    node_name,
    parse_fingerprint,
    server_context,
    short_fingerprint,
    write_private,
)

NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.make("pc1", now=NOW)


@asynccontextmanager
async def listening(context: ssl.SSLContext) -> AsyncIterator[int]:
    async def hear(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hear, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def connect(port: int, trust: Trust) -> bytes:
    """The certificate that is shown (DER). Raises `ssl.SSLError` when the client does not believe it."""
    _, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=trust.context, server_hostname=trust.server_name
    )
    shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return shown


async def handshake(chain: str, trust: Trust, folder: Path) -> None:
    """Connect once. Raises `ssl.SSLError` when the client does not believe the server."""
    async with listening(server_context(chain, folder)) as port:
        await connect(port, trust)


async def test_a_certificate_is_believed_for_its_own_name_and_authority_only(
    authority: Authority, tmp_path: Path
) -> None:
    name = node_name("pc2")
    chain = authority.issue_with_key([name], NOW)
    await handshake(chain, Trust.of_authority(authority.certificate, name), tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError):
        await handshake(chain, Trust.of_authority(authority.certificate, node_name("pc3")), tmp_path)
    foreign = Authority.make("pc1", now=NOW)
    with pytest.raises(ssl.SSLCertVerificationError):
        await handshake(chain, Trust.of_authority(foreign.certificate, name), tmp_path)


async def test_a_certificate_replaced_in_the_middle_of_handshakes_breaks_none(
    authority: Authority, tmp_path: Path
) -> None:
    name = node_name("pc2")
    trust = Trust.of_authority(authority.certificate, name)
    chains = [authority.issue_with_key([name], NOW) for _ in range(2)]
    shown = ReplacedCertificate(chains[0], tmp_path)
    over = threading.Event()

    def replace() -> None:
        for chain in itertools.cycle(chains):
            shown.replace(chain)
            if over.is_set():
                return

    async with listening(shown.context) as port:
        renewing = asyncio.create_task(asyncio.to_thread(replace))
        try:
            seen = {await connect(port, trust) for _ in range(300)}
        finally:
            over.set()
            await renewing
    assert len(seen) == 2


def test_no_private_key_is_left_lying_about(authority: Authority, tmp_path: Path) -> None:
    server_context(authority.issue_with_key([node_name("pc2")], NOW), tmp_path)
    assert list(tmp_path.iterdir()) == []


async def test_the_authority_cannot_vouch_for_a_site_of_the_internet(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.certificates._permitted", lambda *_: True)  # as a thief of the key would
    chain = authority.issue_with_key(["bank.example.com"], NOW)
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        await handshake(chain, Trust.of_authority(authority.certificate, "bank.example.com"), tmp_path)


@pytest.mark.parametrize("skew", [-HOUR, HOUR])
async def test_a_clock_that_is_an_hour_off_changes_nothing(skew: timedelta, tmp_path: Path) -> None:
    authority = Authority.make("pc1", now=NOW + skew)
    chain = authority.issue_with_key([node_name("pc2")], NOW + skew)
    await handshake(chain, Trust.of_authority(authority.certificate, node_name("pc2")), tmp_path)


def test_a_request_is_signed_for_our_names_and_no_longer_than_the_authority_lasts(
    authority: Authority,
) -> None:
    late = expires_at(authority.certificate) - timedelta(days=5)
    signed = authority.sign_request(certificate_request(new_private_key()), [node_name("x")], late)
    assert expires_at(signed) == expires_at(authority.certificate)
    for bad in ("", "x", new_private_key(), authority.certificate):
        with pytest.raises(InvalidRequestError):
            authority.sign_request(bad, [node_name("x")], NOW)


@pytest.mark.parametrize("name", ["a..b", "x" * 63, "A_b.c-", "0"])
def test_every_name_of_a_node_makes_a_host_name(name: str) -> None:
    made = node_name(name)
    assert len(made) <= 63
    assert made.encode("idna").decode() == made


def test_a_fingerprint_is_read_in_the_ways_people_copy_it(authority: Authority) -> None:
    text = fingerprint_of(authority.certificate)
    colons = ":".join(text[place : place + 2].upper() for place in range(0, 64, 2))
    for written in (text, colons, f"sha256:{text}", short_fingerprint(text), f" {text}\n"):
        assert parse_fingerprint(written).hex() == text
    for wrong in ("", "abc", text[:-1], text + "00", "ü" * 64):
        with pytest.raises(InvalidRequestError):
            parse_fingerprint(wrong)


def test_a_private_file_is_its_owners_from_its_first_byte_on(tmp_path: Path) -> None:
    file = tmp_path / "new" / "secret"
    write_private(file, "one")
    write_private(file, "two")
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("two", 0o600)
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert list(file.parent.iterdir()) == [file]
