"""Where a node stands when it starts: alone, on its own identity, or as a member of a cluster."""

from __future__ import annotations

import re
import socket
import sys
from typing import TYPE_CHECKING

import msgspec

from common.errors import CouncilError, SettingsError, UnauthorizedError, UntrustedPeerError
from common.logs import get_logger
from common.node_settings import NodeSettings
from common.security import is_loopback
from worker_node import membership
from worker_node.membership import Membership

if TYPE_CHECKING:
    from common.discovery import Found

log = get_logger(__name__)

NONE, AUTO = "none", "auto"
_EVERYWHERE = "0.0.0.0"


def settle(settings: NodeSettings) -> tuple[NodeSettings, Membership | None]:
    """The settings with the address to listen on, and the identity of an earlier start, where it applies.

    A node that joins, or joined, a master on another machine listens on all interfaces unless it is told
    otherwise. Raises `SettingsError`.
    """
    kept = None if settings.join == NONE else membership.load(settings.data_dir)
    if "host" not in settings.model_fields_set and _serves_others(settings, kept):
        settings = settings.model_copy(update={"host": _EVERYWHERE})
    if is_loopback(settings.host) and settings.join not in (None, NONE) and _serves_others(settings, None):
        raise SettingsError(
            "a node that joins a master on another machine has to be reached from there, and "
            f"{settings.host} is this machine only: --host 0.0.0.0"
        )
    if kept is not None and is_loopback(settings.host) and kept.private_key is not None:
        kept = None  # an identity for other machines, and none of them is served
    return settings, kept


async def establish(settings: NodeSettings, kept: Membership | None, *, port: int) -> Membership | None:
    """Join, or be who we were, or make an identity of our own; `None` on loopback, where none is needed.

    `port`: the one that is listened on. Raises what `joining.join` raises.
    """
    from worker_node import joining  # late: a node on its own machine needs none of it

    if settings.join not in (None, NONE):
        url, token = await _which_master(settings)
        member = kept if kept is not None and (kept.private_key is not None) == settings.serves_tls else None
        if member is not None and member.master == url:
            if not token or await _still_known(member, port):
                return member
        elif member is not None and (moved := await _moved_to(member, url, port)) is not None:
            membership.save(settings.data_dir, moved)
            return moved
        if not token:
            raise SettingsError(
                f"joining {url} takes a token: type `council worker token` there, and here what it prints"
            )
        name = settings.name or (kept.name if kept is not None else default_name())
        joined = await joining.join(url, token, name=name, port=port, tls=settings.serves_tls)
        membership.save(settings.data_dir, joined)
        log.info("joined", master=url, as_node=joined.name)
        return joined
    if kept is None and settings.serves_tls:
        kept = await membership.make_own(settings.name or default_name())
        membership.save(settings.data_dir, kept)
    return kept


def default_name() -> str:
    """This machine's name, as far as a node may be called so."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()).strip("-._")[:63] or "node"


async def _which_master(settings: NodeSettings) -> tuple[str, str | None]:
    from worker_node import joining

    assert settings.join is not None
    if settings.join == AUTO:
        return await _found_master(settings), settings.token
    return joining.master_url(settings.join, insecure_lan=settings.insecure_lan), settings.token


async def _found_master(settings: NodeSettings) -> str:
    """The master on this LAN that the token means. Raises `SettingsError` that says what to type."""
    if not settings.discovery:
        raise SettingsError("looking for a master is switched off; name it: --join https://PC1:8000")
    from common.discovery import look
    from common.tls import parse_fingerprint

    found = await look("master")
    _, _, meant = (settings.token or "").partition(".")
    for one in found:
        # What was announced is a claim; the certificate proves it before the token is sent.
        if meant and one.fingerprint == parse_fingerprint(meant).hex():
            return one.url
    told = "; ".join(_how_to_join(one) for one in found) or (
        "none answers on this LAN. Is it started with --host 0.0.0.0? Else name it: --join https://PC1:8000"
    )
    what = "the token is of no master that was found" if settings.token else "a master is joined with a token"
    raise SettingsError(f"{what}: {told}")


async def tell_masters(*, alone: bool = False) -> None:
    """Say once which masters are on this LAN, and what to type to join one.

    A node that is `alone`, on loopback and of no cluster, hears it as well when there is none.
    """
    from common.discovery import look

    found = await look("master")
    for one in found:
        sys.stderr.write(f"Found {_how_to_join(one)}\n")
    if alone and not found:
        sys.stderr.write(
            "This node serves this PC alone, and no master was found on the LAN. One that serves other PCs "
            "is started with `council up --host 0.0.0.0`; `council worker token` there prints what to type "
            "here.\n"
        )
    sys.stderr.flush()


def _how_to_join(found: Found) -> str:
    name = "".join(char if char.isprintable() else "?" for char in found.name)[:63]
    return (
        f"master {name} at {found.url}: type `council worker token` there, and here "
        f"`council node start --join {found.url} --token T`"
    )


async def _moved_to(kept: Membership, url: str, port: int) -> Membership | None:
    """The membership under another address of the same master; `None` where somebody else answers there.

    Nothing is sent to whoever cannot show the authority that this node joined.
    """
    from worker_node import joining

    if kept.master is None or (kept.authority is None and not _is_local(url)):
        return None
    try:
        found, _ = await joining.renew(msgspec.structs.replace(kept, master=url), port)
    except (UnauthorizedError, UntrustedPeerError):
        return None
    log.info("the master has moved", was=kept.master, master=url)
    return found


async def _still_known(kept: Membership, port: int) -> bool:
    """Whether the master takes this node for its own; one that does not answer has not said no."""
    from worker_node import joining

    try:
        await joining.renew(kept, port)
    except UnauthorizedError:
        return False
    except CouncilError as error:
        log.warning("the master was not asked", master=kept.master, reason=error.detail)
    return True


def _serves_others(settings: NodeSettings, kept: Membership | None) -> bool:
    if settings.join == AUTO:
        return True
    if settings.join is not None and settings.join != NONE:
        return not _is_local(settings.join)
    return kept is not None and kept.master is not None and kept.private_key is not None


def _is_local(url: str) -> bool:
    host = url.partition("://")[2] or url
    return is_loopback(host.partition("/")[0].rpartition(":")[0] or host)
