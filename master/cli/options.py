"""Options that many commands share, defined once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url", envvar="COUNCIL_URL", help="Address of the master. Default: the one that runs here."
    ),
]
KeyOption = Annotated[
    str | None,
    typer.Option("--key", envvar="COUNCIL_KEY", help="Key of the master.", show_envvar=True),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", envvar="COUNCIL_CONFIG", help="Settings file (TOML).")
]
DataDirOption = Annotated[
    Path | None,
    typer.Option("--data-dir", envvar="COUNCIL_DATA_DIR", help="Folder of everything that is kept."),
]
HostOption = Annotated[
    str | None, typer.Option("--host", help="Address to listen on; off loopback a key is required.")
]
PortOption = Annotated[int | None, typer.Option("--port", min=0, max=65535, help="Port; 0 for a free one.")]
InsecureOption = Annotated[
    bool, typer.Option("--insecure-lan", help="Serve other machines without a key. Only on a trusted LAN.")
]
