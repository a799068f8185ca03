"""Settings of both programs: defaults < TOML file < environment < flags.

The file has one table per program, `[master]` and `[node]`; an unknown table or key is an error, and so is
a value of the wrong type. Users' names such as `GENERATION_TIMEOUT`, `OLLAMA_BASE_URL` and `BG_MAX_CPU` are
read exactly; every other environment name carries the prefix `COUNCIL_`. A model is built once, in the entry
point of a program, by `load`, and passed down.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, Literal, Self

import platformdirs
from pydantic import AliasChoices, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from common.errors import SettingsError
from common.security import is_loopback, is_repetitive

TABLES = ("master", "node")


def default_data_dir() -> Path:
    return Path(platformdirs.user_data_dir("lan-council", appauthor=False))


def env(name: str, *, field: str) -> AliasChoices:
    """The exact environment name of a field, beside the name that files and flags use."""
    return AliasChoices(name, field)


class ProgramSettings(BaseSettings):
    """What both programs share."""

    model_config = SettingsConfigDict(
        env_prefix="COUNCIL_", frozen=True, extra="forbid", populate_by_name=True, env_ignore_empty=True
    )

    data_dir: Path = Field(default_factory=default_data_dir, description="Folder of everything that is kept.")
    discovery: bool = Field(
        True,
        description="Tell the LAN by mDNS that this program is here, when it serves other machines; a node "
        "of no cluster says which masters it finds. Finding is not trusting.",
    )
    insecure_lan: bool = Field(
        False, description="Serve other machines without a key. Only on a LAN that you trust entirely."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level logged.")
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="`auto`: console on a terminal, else JSON lines."
    )
    connect_timeout_s: float = Field(10.0, gt=0, description="Longest wait for a connection (seconds).")
    exclusive_programs: list[str] = Field(
        default_factory=list,
        validation_alias=env("BG_EXCLUSIVE_PROGRAMS", field="exclusive_programs"),
        description="Programs that want this machine for themselves, such as `blender`: while one runs here, "
        "background work does not.",
    )

    @field_validator("key", check_fields=False)
    @classmethod
    def _key_is_hard_to_guess(cls, value: str | None) -> str | None:
        if value is not None and len(value) < 16:
            raise ValueError("a key needs at least 16 characters; `council config new-key` prints one")
        if value is not None and is_repetitive(value):
            raise ValueError(
                "a key of so few different characters, or of one part again and again, is soon guessed; "
                "`council config new-key` prints a better one"
            )
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # `load` merges file, environment and flags itself: a field's plain name must never be read from the
        # environment (`PORT`, `NAME`), and users' names are exact.
        return (init_settings,)

    @classmethod
    def load(cls, table: str, *, config: Path | None = None, flags: dict[str, Any] | None = None) -> Self:
        """Build the settings of one program.

        `config` is the TOML file (`--config`, else `COUNCIL_CONFIG`); `flags` are what the command line set,
        `None` for what it did not. Raises `SettingsError` naming each wrong key and what to do.
        """
        return cls._build(read_config(config).get(table, {}), flags or {}, config)

    @classmethod
    def _build(cls, from_file: dict[str, Any], flags: dict[str, Any], config: Path | None) -> Self:
        aliases = {
            alias: name
            for name, info in cls.model_fields.items()
            if isinstance(info.validation_alias, AliasChoices)
            for alias in info.validation_alias.choices
            if isinstance(alias, str)
        }
        unknown = sorted(key for key in from_file if key not in cls.model_fields and key not in aliases)
        if unknown:
            raise SettingsError(
                f"unknown setting {', '.join(unknown)} in {config or os.environ.get('COUNCIL_CONFIG')}; "
                f"known are: {', '.join(sorted(cls.model_fields))}"
            )
        try:
            from_env = cls._from_environment()
            values = {aliases.get(key, key): value for key, value in from_file.items()}
            values.update(from_env)
            values.update({key: value for key, value in flags.items() if value is not None})
            return cls.model_validate(values, by_name=True)
        except ValidationError as error:
            raise SettingsError(cls._explain(error)) from error

    @classmethod
    def _from_environment(cls) -> dict[str, Any]:
        """What the environment sets, by field name. Names are exact; an empty value counts as unset."""
        found: dict[str, Any] = {}
        for name, info in cls.model_fields.items():
            value = os.environ.get(cls.environment_name(name))
            if value is None or value == "":
                continue
            found[name] = _parse_list(value) if "list" in str(info.annotation) else value
        return found

    @classmethod
    def _explain(cls, error: ValidationError) -> str:
        """What is wrong with which setting, by its names in files and in the environment."""
        lines = []
        for one in error.errors():
            where = ".".join(str(part) for part in one["loc"])
            if where in cls.model_fields:
                where = f"{where} ({cls.environment_name(where)})"
            words = one["msg"].removeprefix("Value error, ")  # Pydantic's, before those of our own checks
            lines.append(f"{where}: {words}" if where else words)
        return "; ".join(lines)

    @classmethod
    def environment_name(cls, field: str) -> str:
        alias = cls.model_fields[field].validation_alias
        if isinstance(alias, AliasChoices):
            return str(alias.choices[0])
        return f"COUNCIL_{field.upper()}"


def _parse_list(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


def read_config(config: Path | None) -> dict[str, dict[str, Any]]:
    """The tables of the TOML file, empty when there is none. Raises `SettingsError`."""
    path = config or (Path(os.environ["COUNCIL_CONFIG"]) if os.environ.get("COUNCIL_CONFIG") else None)
    if path is None:
        return {}
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise SettingsError(f"cannot read the settings file {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from error
    unknown = sorted(set(content) - set(TABLES))
    if unknown:
        raise SettingsError(
            f"unknown table or key {', '.join(unknown)} in {path}; tables are [master] and [node]"
        )
    return content


def require_key_off_loopback(*, host: str, key: str | None, insecure_lan: bool, program: str) -> None:
    """Refuse to serve other machines without a key. Raises `SettingsError` that says what to type."""
    if is_loopback(host) or key or insecure_lan:
        return
    variable = "COUNCIL_KEY" if program == "master" else "COUNCIL_NODE_KEY"
    raise SettingsError(
        f"the {program} would listen on {host}, where other machines reach it, and has no key. Set "
        f"{variable} (print one with `council config new-key`), or add "
        "--insecure-lan on a network that you trust entirely."
    )
