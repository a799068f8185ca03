"""One certificate authority for all masters on a database: there it lies locked, in each folder it lies open.

It is locked with COUNCIL_KEY, which every master off loopback has and which is in no database. Imported late,
for it needs the cryptography that a master on loopback does without.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from common.errors import SettingsError
from common.tls import fingerprint_of, read_private, write_private
from master.authority import FILE, open_authority
from master.state.cluster_secrets import SecretRepository

NAME = "certificate authority"
_COST = 2**15  # of guessing a key: some 100 ms and 32 MiB a guess


@dataclass(frozen=True, slots=True)
class Locked:
    """The authority as the database has it; the certificate is no secret."""

    certificate: str
    salt: bytes
    nonce: bytes
    sealed: bytes

    @classmethod
    def of(cls, plain: str, key: str) -> Locked:
        salt, nonce = os.urandom(16), os.urandom(12)
        certificate = str(json.loads(plain)["certificate"])
        sealed = _cipher(key, salt).encrypt(nonce, plain.encode(), certificate.encode())
        return cls(certificate, salt, nonce, sealed)

    @classmethod
    def read(cls, text: str) -> Locked:
        told = json.loads(text)
        salt, nonce, sealed = (base64.b64decode(told[name]) for name in ("salt", "nonce", "sealed"))
        return cls(told["certificate"], salt, nonce, sealed)

    def to_json(self) -> str:
        parts = {"salt": self.salt, "nonce": self.nonce, "sealed": self.sealed}
        told = {name: base64.b64encode(value).decode() for name, value in parts.items()}
        return json.dumps({"certificate": self.certificate, **told})

    def open(self, key: str) -> str | None:
        """The authority's file; `None` when it was locked with another key."""
        try:
            opened = _cipher(key, self.salt).decrypt(self.nonce, self.sealed, self.certificate.encode())
        except InvalidTag:
            return None
        return opened.decode()


def _cipher(key: str, salt: bytes) -> AESGCM:
    return AESGCM(Scrypt(salt=salt, length=32, n=_COST, r=8, p=1).derive(key.encode()))


async def share(folder: Path, secrets: SecretRepository, key: str) -> None:
    """Bring the folder's authority and the cluster's together, before the folder's is opened.

    The first master gives its own; those who come later, with the same COUNCIL_KEY, get that. Raises
    `SettingsError` where the folder has another one, or the key is another.
    """
    here = await asyncio.to_thread(read_private, folder / FILE)
    kept = await secrets.get(NAME)
    if kept is None:
        if here is None:
            await asyncio.to_thread(open_authority, folder)
            here = await asyncio.to_thread(read_private, folder / FILE) or ""
        ours = await asyncio.to_thread(Locked.of, here, key)
        kept = await secrets.keep_first(NAME, ours.to_json())
        if kept == ours.to_json():
            return
        here = None  # another master was quicker, and nobody has seen ours yet
    locked = Locked.read(kept)
    if here is not None:
        _require_same(here, locked, folder)
    opened = await asyncio.to_thread(locked.open, key)
    if opened is not None:
        if here is None:
            await asyncio.to_thread(write_private, folder / FILE, opened)
        return
    if here is None:
        raise SettingsError(
            "the cluster's certificate authority is locked with another COUNCIL_KEY: give this master the "
            f"one that the others have, or copy {FILE} from the data folder of one of them to {folder}"
        )
    # The key was changed: who has the authority locks it anew, for those who come with the new key.
    await secrets.replace(NAME, (await asyncio.to_thread(Locked.of, here, key)).to_json())


def _require_same(here: str, locked: Locked, folder: Path) -> None:
    ours = fingerprint_of(str(json.loads(here)["certificate"]))
    theirs = fingerprint_of(locked.certificate)
    if ours != theirs:
        raise SettingsError(
            f"{folder / FILE} is another authority ({ours[:16]}…) than the cluster's ({theirs[:16]}…): move "
            "that file away, and this master gets the cluster's; its own nodes have to join again"
        )
