"""What each path asks of its caller: one table for HTTP and sockets. Pure.

A path that is not named here asks for an administrator when it changes something, so that a new route is
closed until somebody decides otherwise.
"""

from __future__ import annotations

from enum import Enum

HEALTH = "/health"
AUTHORITY = "/health/authority"
LOGIN = "/api/login"
JOIN = "/api/cluster/join"
RENEW = "/api/cluster/renew"


class Need(Enum):
    """Who may call. `TOKEN` and `NODE` are asked for on every network, on loopback too."""

    NOBODY = "nobody is asked"
    PERSON = "any key"
    SESSION = "any key, or that of another master on the same database"
    ADMIN = "the key of an administrator"
    TOKEN = "a join token"
    NODE = "the key of a node"


# What a browser needs before a person has logged in: the page itself, which holds no data.
_OPEN = frozenset({HEALTH, AUTHORITY, "/", LOGIN})
_OPEN_FOLDER = "/assets/"
_ADMIN_FOLDERS = ("/api/keys/", "/api/cluster/tokens/")
_SESSION_FOLDER = "/api/council/sessions/"
_READING = frozenset({"GET", "HEAD", "OPTIONS", "WEBSOCKET"})
# Where people may change things: they ask, retry, cancel, archive and delete.
_PERSON_FOLDERS = (
    "/api/council/sessions/",
    "/api/conversations/",
    "/api/conversation/",
    "/api/structured_archive/",
    "/api/background/register_activity/",
    "/api/background/jobs/",
    "/api/background/batch/",
    "/api/background/dead/",
    "/v1/",
)


def needed(method: str, path: str) -> Need:
    """What a request asks of its caller; `method` is `WEBSOCKET` for a socket."""
    if path in _OPEN or path.startswith(_OPEN_FOLDER):
        return Need.NOBODY
    if path == JOIN:
        return Need.TOKEN
    if path == RENEW:
        return Need.NODE
    if _under(path, _ADMIN_FOLDERS):
        return Need.ADMIN
    if path.startswith(_SESSION_FOLDER):
        return Need.SESSION
    if method in _READING or _under(path, _PERSON_FOLDERS):
        return Need.PERSON
    return Need.ADMIN


def _under(path: str, folders: tuple[str, ...]) -> bool:
    return f"{path}/".startswith(folders)
