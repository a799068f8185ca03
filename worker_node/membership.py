"""What a node is in a cluster: its name, key and certificate, kept in its data folder for the next start."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

import msgspec

from common.errors import SettingsError
from common.logs import get_logger
from common.security import keys_match, new_key
from common.tls import fingerprint_of, read_private, write_private

FILE = "node.json"
REMOVED_FILE = "node.removed.json"  # not read again; for a person who removed it by mistake
log = get_logger(__name__)


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """A node's identity. `master` is the address that it joined, `None` for one that it made itself.

    `private_key`, `request` (for a certificate), `certificate` (with the authority's behind it) and
    `authority` are PEM; all `None` for a node that speaks plain HTTP.
    """

    name: str
    key: str
    master: str | None = None
    private_key: str | None = None
    certificate: str | None = None
    request: str | None = None
    authority: str | None = None

    @property
    def chain(self) -> str:
        """Key and certificates in one text. Raises `SettingsError` when there are none."""
        if self.private_key is None or self.certificate is None:
            raise SettingsError(
                "this node joined over plain HTTP and cannot serve other machines over TLS; join again "
                "with a new token"
            )
        return self.private_key + self.certificate

    @property
    def fingerprint(self) -> str:
        """Of the node's own certificate, in hex."""
        if self.certificate is None:
            raise AssertionError("only a node with a certificate has a fingerprint")
        end = "-----END CERTIFICATE-----"
        return fingerprint_of(self.certificate.partition(end)[0] + end)


class Belonging:
    """Whether this node belongs to a master now, and the file that says so at the next start.

    `ended` says in words that the master removed it, and what to do; `None` while it belongs.
    """

    def __init__(self, folder: Path, member: Membership | None) -> None:
        self._folder = folder
        self._member = member
        self.ended: str | None = None
        self._writing = asyncio.Lock()  # what is put aside must not be written again by who began before
        self.heard_at = float("-inf")  # when the master last called, in monotonic seconds

    def hear(self, key: str) -> None:
        """Somebody called with one of this node's keys; with the member's own it is the master."""
        if self._member is not None and keys_match(key, self._member.key):
            self.heard_at = time.monotonic()

    @property
    def key(self) -> str | None:
        """The key that masters send here; `None` where there is none, or it ended with the membership."""
        return self._member.key if self._member is not None and self.ended is None else None

    async def end(self) -> None:
        """The master knows this node no more. What is kept is put aside, so that the node can join anew."""
        if self.ended is not None or self._member is None or self._member.master is None:
            return
        self.ended = (
            f"removed by the master at {self._member.master}; stop this node and join again with a token: "
            f"council node start --join {self._member.master} --token T"
        )
        log.error("this node was removed from its cluster", master=self._member.master, kept_as=REMOVED_FILE)
        async with self._writing:
            await asyncio.to_thread(_put_aside, self._folder)

    async def go_on(self, member: Membership) -> None:
        """The master knows this node, perhaps again; keep what it told."""
        self._member, self.ended = member, None
        async with self._writing:
            await asyncio.to_thread(save, self._folder, member)


def _put_aside(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        (folder / FILE).replace(folder / REMOVED_FILE)


def load(folder: Path) -> Membership | None:
    """What an earlier start kept. Raises `SettingsError` when the file is damaged."""
    path = folder / FILE
    try:
        kept = read_private(path)
        return msgspec.json.decode(kept, type=Membership) if kept is not None else None
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read ({error}); remove it and join again") from error


def save(folder: Path, membership: Membership) -> None:
    """Keep it, for the owner's eyes only."""
    write_private(folder / FILE, msgspec.json.format(msgspec.json.encode(membership)).decode())


async def make_own(name: str) -> Membership:
    """An identity that nobody gave: a master knows it by key and fingerprint (`council worker add`)."""
    private_key, certificate = await asyncio.to_thread(_self_signed, name)
    return Membership(
        name=name,
        key=new_key("lcn"),
        private_key=private_key,
        certificate=certificate,
    )


def _self_signed(name: str) -> tuple[str, str]:
    from datetime import UTC, datetime

    from common.certificates import new_private_key, self_signed

    key = new_private_key()
    return key, self_signed(key, name, datetime.now(UTC))
