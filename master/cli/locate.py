"""Find the master that a command talks to: the one named, else the one that runs here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from master.cli.addresses import default_url, load_settings, local_addresses
from master.cli.failure import CommandFailedError, NoMasterError

if TYPE_CHECKING:
    from common.master_settings import MasterSettings
    from master.cli.client import MasterClient

T = TypeVar("T")
PROBE_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class Located:
    """A master that answered: its address and the key to use there."""

    url: str
    key: str | None


async def probe(url: str, data_dir: Path | None = None) -> dict[str, Any] | None:
    """The health that `url` tells, whatever its status; `None` when nothing answers there.

    What answers without being one of ours gives `{"role": "other"}`; a certificate that is not trusted here
    `{"role": "untrusted"}`. `data_dir`: see `trust.verify`.
    """
    import httpx

    from master.cli.trust import is_untrusted, verify

    try:
        async with httpx.AsyncClient(
            timeout=PROBE_TIMEOUT_S, trust_env=False, verify=verify(url, data_dir)
        ) as http:
            response = await http.get(f"{url.rstrip('/')}/health")
    except (httpx.TransportError, httpx.InvalidURL, ValueError) as error:
        return {"role": "untrusted"} if is_untrusted(error) else None
    try:
        health = response.json()
    except ValueError:
        health = None
    return health if isinstance(health, dict) and "role" in health else {"role": "other"}


async def locate(url: str | None, key: str | None, settings: MasterSettings | None = None) -> Located | None:
    """The master at `url`, else the one of this machine; `None` when no url was named and none runs.

    Raises `NoMasterError` when the named one does not answer, `CommandFailedError` when it is none.
    """
    if url is not None:
        if "://" not in url:
            url = f"http://{url}"
        _require_master(url, await probe(url))
        return Located(url.rstrip("/"), key)
    settings = settings or load_settings()
    key = key or settings.key
    for address in local_addresses(settings):
        health = await probe(address)
        if health is not None and health.get("role") == "master":
            return Located(address, key)
    return None


async def require(url: str | None, key: str | None) -> Located:
    """Like `locate`, for commands that cannot bring up a master of their own."""
    found = await locate(url, key)
    if found is None:
        raise NoMasterError(default_url(load_settings()))
    return found


def _require_master(url: str, health: dict[str, Any] | None) -> None:
    if health is None:
        raise NoMasterError(url)
    if health.get("role") == "untrusted":
        from master.cli.trust import HINT

        raise CommandFailedError(f"the certificate of {url} is not trusted here", hint=HINT)
    if health.get("role") == "worker":
        raise CommandFailedError(
            f"{url} is the worker node {health.get('name')}, not a master",
            hint="questions go to the master; nodes are added there with `council worker add`",
        )
    if health.get("role") != "master":
        raise CommandFailedError(
            f"something answers at {url}, but it is not a council's master",
            hint="name the master with --url or COUNCIL_URL, or start one with `council up`",
        )


def call_master(url: str | None, key: str | None, work: Callable[[MasterClient], Awaitable[T]]) -> T:
    """Find the master, let `work` talk to it, and return what it returns: one command's whole life."""

    async def run() -> T:
        from master.cli.client import MasterClient

        found = await require(url, key)
        async with MasterClient(found.url, found.key) as client:
            return await work(client)

    return asyncio.run(run())
