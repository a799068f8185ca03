"""Find the master that a command talks to: the one named, else the one that runs here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from master.cli.addresses import address_of, default_url, load_settings, local_addresses
from master.cli.failure import CommandFailedError, NoMasterError

if TYPE_CHECKING:
    import ssl

    from common.master_settings import MasterSettings
    from master.cli.client import MasterClient

T = TypeVar("T")
CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 10.0  # on a PC whose models keep it busy, a master that is well takes seconds


@dataclass(frozen=True, slots=True)
class Located:
    """A master that answered: its address and the key to use there. `verify`: see `MasterClient`."""

    url: str
    key: str | None
    verify: ssl.SSLContext | bool


@dataclass(frozen=True, slots=True)
class Answered:
    """What `probe` tells, and with what the certificate of who told it was checked."""

    health: dict[str, Any]
    verify: ssl.SSLContext | bool

    @property
    def is_master(self) -> bool:
        return self.health.get("role") == "master"


async def probe(url: str, data_dir: Path | None = None) -> dict[str, Any] | None:
    """The health that `url` tells, whatever its status; `None` when nothing answers there.

    What answers without being one of ours gives `{"role": "other"}`; a certificate that is not trusted here
    `{"role": "untrusted"}`. `data_dir`: see `trust.verify`.
    """
    answered = await reach(url, data_dir)
    return answered.health if answered is not None else None


async def reach(url: str, data_dir: Path | None = None) -> Answered | None:
    """Like `probe`, with how to go on talking to who answered.

    A certificate that is not trusted for this address may be a person's, for another name: the master is
    asked for the cluster's own then.
    """
    from master.cli.trust import by_name, verify

    usual = verify(url, data_dir)
    health = await _health(url, usual)
    if health is not None and health.get("role") == "untrusted":
        ours = by_name(data_dir)
        named = await _health(url, ours) if ours is not None else None
        if ours is not None and named is not None and named.get("role") == "master":
            return Answered(named, ours)
    return Answered(health, usual) if health is not None else None


async def health_here(host: str, port: int) -> dict[str, Any]:
    """The health of whichever of our programs listens there on this machine; empty where none does.

    Health is told to everybody, and whoever tells it is believed for a line on the screen and no more: so no
    certificate is asked for.
    """
    for scheme in ("http", "https"):
        health = await _health(address_of(scheme, host, port), False) if port else None
        if health is not None and health.get("role") in ("master", "worker"):
            return health
    return {}


async def _health(url: str, verify: ssl.SSLContext | bool) -> dict[str, Any] | None:
    import httpx

    from master.cli.trust import is_untrusted

    try:
        patience = httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        async with httpx.AsyncClient(timeout=patience, trust_env=False, verify=verify) as http:
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
        url, answered = await _reach_named(url)
        return Located(url.rstrip("/"), key, _require_master(url, answered).verify)
    settings = settings or load_settings()
    key = key or settings.key
    for address in local_addresses(settings):
        answered = await reach(address, settings.data_dir)
        if answered is not None and answered.is_master:
            return Located(address, key, answered.verify)
    return None


async def _reach_named(url: str) -> tuple[str, Answered | None]:
    """Who answers where a person said: one without a scheme is HTTPS where nobody speaks HTTP.

    Raises `CommandFailedError` where a master was named as http:// and speaks HTTPS, as all do off loopback.
    """
    named = url if "://" in url else f"http://{url}"
    answered = await reach(named)
    if answered is not None or not named.startswith("http://"):
        return named, answered
    over_tls = named.replace("http://", "https://", 1)
    answered = await reach(over_tls)
    if answered is not None and named == url:
        raise CommandFailedError(f"what answers at {url} speaks HTTPS", hint=f"write {over_tls}")
    return (over_tls if answered is not None else named), answered


async def require(url: str | None, key: str | None) -> Located:
    """Like `locate`, for commands that cannot bring up a master of their own."""
    found = await locate(url, key)
    if found is None:
        raise NoMasterError(default_url(load_settings()))
    return found


def _require_master(url: str, answered: Answered | None) -> Answered:
    if answered is None:
        raise NoMasterError(url)
    health = answered.health
    if health.get("role") == "untrusted":
        from master.cli.trust import HINT

        raise CommandFailedError(f"the certificate of {url} is not trusted here", hint=HINT)
    if health.get("role") == "worker":
        raise CommandFailedError(
            f"{url} is the worker node {health.get('name')}, not a master",
            hint="questions go to the master; nodes are added there with `council worker add`",
        )
    if not answered.is_master:
        raise CommandFailedError(
            f"something answers at {url}, but it is not a council's master",
            hint="name the master with --url or COUNCIL_URL, or start one with `council up`",
        )
    return answered


def call_master(url: str | None, key: str | None, work: Callable[[MasterClient], Awaitable[T]]) -> T:
    """Find the master, let `work` talk to it, and return what it returns: one command's whole life."""

    from master.cli.interrupts import run

    async def called() -> T:
        from master.cli.client import MasterClient

        found = await require(url, key)
        async with MasterClient(found.url, found.key, verify=found.verify) as client:
            return await work(client)

    return run(called())
