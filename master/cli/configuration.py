"""`council config …`: every setting with its value and where it comes from, and new keys."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from master.cli.options import ConfigOption, DataDirOption, JsonOption

if TYPE_CHECKING:
    from common.master_settings import MasterSettings
    from common.node_settings import NodeSettings

Source = Literal["default", "file", "environment"]
SECRETS = frozenset({"key", "token", "openai_api_key"})
MASK = "********"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of one program. `value` is masked where it is a secret."""

    program: str
    name: str
    value: Any
    source: Source
    environment: str


def settings_of(
    program: str, model: type[MasterSettings] | type[NodeSettings], config: Path | None
) -> list[Setting]:
    """Every setting of a program as it would start now. Raises `SettingsError` when it would not."""
    import os

    from common.settings import read_config

    loaded = model.load(program, config=config)
    in_file = set(read_config(config).get(program, {}))
    found = []
    for name in type(loaded).model_fields:
        variable = model.environment_name(name)
        source: Source = "default"
        if os.environ.get(variable):
            source = "environment"
        elif in_file & {name, variable}:
            source = "file"
        found.append(Setting(program, name, masked(name, getattr(loaded, name)), source, variable))
    return found


def masked(name: str, value: Any) -> Any:
    """The value as it may be shown: no key, no password of an address, no key behind `#` of a node."""
    if value is None:
        return None
    if name in SECRETS:
        return MASK
    if isinstance(value, list):
        return [masked(name, entry) for entry in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, str):
        value = re.sub(r"(://[^/@:\s]*):[^/@\s]*@", rf"\1:{MASK}@", value)
        if name == "nodes":
            value = re.sub(r"#.*", f"#{MASK}", value)
    return value


def show(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show every setting of both programs, its value and where that comes from."""
    from common.master_settings import MasterSettings
    from common.node_settings import NodeSettings
    from master.cli.terminal import print_json, print_table

    found = settings_of("master", MasterSettings, config) + settings_of("node", NodeSettings, config)
    if as_json:
        programs: dict[str, dict[str, Any]] = {"master": {}, "node": {}}
        for one in found:
            programs[one.program][one.name] = {
                "value": one.value,
                "source": one.source,
                "environment": one.environment,
            }
        print_json(programs)
        return
    for program in ("master", "node"):
        print_table(
            f"[{program}]",
            ["setting", "value", "from", "environment"],
            [
                [one.name, None if one.value is None else str(one.value), one.source, one.environment]
                for one in found
                if one.program == program
            ],
            empty="",
        )


def export_ca(config: ConfigOption = None, data_dir: DataDirOption = None) -> None:
    """Print the certificate of this cluster's authority (PEM), for browsers and other PCs to trust."""
    from common.tls import fingerprint_of
    from master.authority import read_certificate
    from master.cli.addresses import load_settings
    from master.cli.failure import CommandFailedError
    from master.cli.terminal import tell

    folder = load_settings(config, data_dir=data_dir).data_dir
    certificate = read_certificate(folder)
    if certificate is None:
        raise CommandFailedError(
            f"there is no authority in {folder}",
            hint="it is made when the master first serves other machines: council up --host 0.0.0.0",
        )
    typer.echo(certificate, nl=False)
    tell(f"SHA-256 fingerprint: {fingerprint_of(certificate)}")


def new_key() -> None:
    """Print a new random key, for COUNCIL_KEY or COUNCIL_NODE_KEY."""
    from common.security import new_key as make

    typer.echo(make())
