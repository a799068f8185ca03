"""Where a master of this machine is reached, as its settings and its data folder tell. Asks nobody."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.master_settings import MasterSettings

RUNNING_FILE = "master.json"


def load_settings(config: Path | None = None, **flags: Any) -> MasterSettings:
    """The master's settings as its own program would read them. Raises `SettingsError`."""
    from common.master_settings import MasterSettings

    return MasterSettings.load("master", config=config, flags=flags)


def default_url(settings: MasterSettings) -> str:
    """Where a master with these settings is reached from this machine."""
    return address_of("https" if settings.serves_tls else "http", settings.host, settings.port)


def address_of(scheme: str, host: str, port: int) -> str:
    """Where a program of this machine that listens so is reached from it."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return f"{scheme}://{host}:{port}"


def reachable(url: str) -> str:
    """The address of a program that listens everywhere, as it is reached from this machine."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def local_addresses(settings: MasterSettings) -> list[str]:
    """Where a master of this machine may answer: the usual port, the one noted in the data folder, and the
    usual port over TLS, since its flags are not known here.
    """
    usual = default_url(settings)
    found = [usual, read_running(settings.data_dir), usual.replace("http://", "https://")]
    return list(dict.fromkeys(address for address in found if address))


def read_running(data_dir: Path) -> str | None:
    """The address that a master noted in its data folder when it started; it may have ended since."""
    try:
        noted = json.loads((data_dir / RUNNING_FILE).read_text())
        return reachable(str(noted["url"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
