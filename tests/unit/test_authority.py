"""A master that runs for months serves a certificate that is good, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from common.certificates import Authority
from common.tls import MASTER_NAME, Trust
from master.authority import ClusterAuthority

SOON_S = 0.02


class Server:
    """Where anybody may look at the certificate that is shown."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def shows(self, name: str, trust: ssl.SSLContext | None = None) -> bytes:
        """The certificate (DER) for who asks for `name`; checked by `trust`."""
        context = trust
        if context is None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        _, writer = await asyncio.open_connection("127.0.0.1", self._port, ssl=context, server_hostname=name)
        try:
            found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            assert isinstance(found, bytes)
            return found
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def until(self, name: str, is_so: Callable[[bytes], bool]) -> bytes:
        async with asyncio.timeout(10):
            while True:
                if is_so(shown := await self.shows(name)):
                    return shown
                await asyncio.sleep(SOON_S)


@asynccontextmanager
async def serving(authority: ClusterAuthority) -> AsyncIterator[Server]:
    async def hear(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hear, "127.0.0.1", 0, ssl=authority.context)
    async with server:
        yield Server(server.sockets[0].getsockname()[1])


@asynccontextmanager
async def renewing(authority: ClusterAuthority, *, renew_every_s: float) -> AsyncIterator[None]:
    task = asyncio.create_task(
        authority.renewing(look_every_s=SOON_S, renew_every_s=renew_every_s, retry_s=SOON_S)
    )
    try:
        yield
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Persons:
    """A certificate of an authority of a person's own, as their program writes it."""

    def __init__(self, folder: Path) -> None:
        self.files = folder / "cert.pem", folder / "key.pem"
        self._company = Authority.make("council.example.org", now=datetime.now(UTC))
        self.trust = ssl.create_default_context(cadata=self._company.certificate)

    def write(self) -> None:
        end = "-----END PRIVATE KEY-----\n"
        chain = self._company.issue_with_key(["council.example.org"], datetime.now(UTC))
        key, _, certificates = chain.partition(end)
        self.files[0].write_text(certificates)
        self.files[1].write_text(key + end)


async def test_a_certificate_is_renewed_while_it_is_served(tmp_path: Path) -> None:
    authority = await asyncio.to_thread(ClusterAuthority.open, tmp_path, host="127.0.0.1")
    async with serving(authority) as server:
        trust = Trust.of_authority(authority.certificate, MASTER_NAME).context
        first = await server.shows(MASTER_NAME, trust)
        async with renewing(authority, renew_every_s=0.0):
            second = await server.until(MASTER_NAME, lambda shown: shown != first)
            await server.until(MASTER_NAME, lambda shown: shown not in (first, second))
        assert await server.shows(MASTER_NAME, trust) != first


async def test_a_renewal_that_fails_is_told_and_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    authority = await asyncio.to_thread(ClusterAuthority.open, folder, host="127.0.0.1")
    async with serving(authority) as server:
        first = await server.shows(MASTER_NAME)
        folder.rename(tmp_path / "away")  # no file can be written, as on a full disk
        with capture_logs() as logs:
            async with renewing(authority, renew_every_s=0.0):
                async with asyncio.timeout(10):
                    while len(logs) < 2:
                        await server.shows(MASTER_NAME)
                assert {one["event"] for one in logs} == {"the master's certificate was not renewed"}
                (tmp_path / "away").rename(folder)
                await server.until(MASTER_NAME, lambda shown: shown != first)


async def test_a_persons_certificate_that_was_renewed_on_disk_is_served(tmp_path: Path) -> None:
    persons = Persons(tmp_path)
    persons.write()
    name = "council.example.org"
    authority = await asyncio.to_thread(ClusterAuthority.open, tmp_path, host="127.0.0.1", own=persons.files)
    async with serving(authority) as server, renewing(authority, renew_every_s=3600.0):
        first, of_cluster = await server.shows(name, persons.trust), await server.shows(MASTER_NAME)
        persons.write()
        second = await server.until(name, lambda shown: shown != first)
        assert await server.shows(name, persons.trust) == second
        assert await server.shows(MASTER_NAME) == of_cluster


@pytest.mark.parametrize("broken", ["", "not a certificate", None])
async def test_a_new_file_that_cannot_be_used_leaves_the_old_certificate_served(
    tmp_path: Path, broken: str | None
) -> None:
    persons = Persons(tmp_path)
    persons.write()
    authority = await asyncio.to_thread(ClusterAuthority.open, tmp_path, host="127.0.0.1", own=persons.files)
    with capture_logs() as logs:
        async with serving(authority) as server, renewing(authority, renew_every_s=3600.0):
            first = await server.shows("council.example.org")
            if broken is None:
                persons.files[0].unlink()
            else:
                persons.files[0].write_text(broken)
            async with asyncio.timeout(10):
                while not logs:
                    await server.shows(MASTER_NAME)
            assert [one["event"] for one in logs] == ["the certificate of before is served on"]
            assert await server.shows("council.example.org", persons.trust) == first
            persons.write()
            await server.until("council.example.org", lambda shown: shown != first)


async def test_a_pc_that_was_renamed_is_told_which_name_is_not_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "study")
    with capture_logs() as logs:
        await asyncio.to_thread(ClusterAuthority.open, tmp_path, host="0.0.0.0")
    assert [one["event"] for one in logs] == ["certificate authority made"]
    monkeypatch.setattr("socket.gethostname", lambda: "attic")
    with capture_logs() as logs:
        authority = await asyncio.to_thread(ClusterAuthority.open, tmp_path, host="0.0.0.0")
    assert [(one["log_level"], one["name"]) for one in logs] == [("warning", "attic")]
    assert "attic.local" in logs[0]["try_instead"]
    assert "authority.json" in logs[0]["to_change_it"]
    async with serving(authority) as server:
        trust = ssl.create_default_context(cadata=authority.certificate)
        await server.shows("attic.local", trust)
        with pytest.raises(ssl.SSLCertVerificationError):
            await server.shows("attic", trust)
