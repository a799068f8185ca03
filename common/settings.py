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
from common.security import is_loopback

TABLES = ("master", "node")


def default_data_dir() -> Path:
    return Path(platformdirs.user_data_dir("lan-council", appauthor=False))


def env(name: str, *, field: str) -> AliasChoices:
    """The exact environment name of a field, beside the name that files and flags use."""
    return AliasChoices(name, field)


class _Program(BaseSettings):
    """What both programs share."""

    model_config = SettingsConfigDict(
        env_prefix="COUNCIL_", frozen=True, extra="forbid", populate_by_name=True, env_ignore_empty=True
    )

    data_dir: Path = Field(default_factory=default_data_dir, description="Folder of everything that is kept.")
    discovery: bool = Field(
        True,
        description="Tell the LAN by mDNS that this program is here, when it serves other machines. Finding "
        "is not trusting.",
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
    def _key_is_long_enough(cls, value: str | None) -> str | None:
        if value is not None and len(value) < 16:
            raise ValueError("a key needs at least 16 characters; `council config new-key` prints one")
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
            raise SettingsError(_explain(error)) from error

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
    def environment_name(cls, field: str) -> str:
        alias = cls.model_fields[field].validation_alias
        if isinstance(alias, AliasChoices):
            return str(alias.choices[0])
        return f"COUNCIL_{field.upper()}"


def _parse_list(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


def _explain(error: ValidationError) -> str:
    lines = [f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors()]
    return "; ".join(lines)


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


class NodeSettings(_Program):
    """The worker node. Names of Ollama are read as Ollama's users know them."""

    host: str = Field(
        "127.0.0.1",
        validation_alias=env("COUNCIL_NODE_HOST", field="host"),
        description="Address to listen on; 0.0.0.0 for the whole LAN, which takes a key.",
    )
    port: int = Field(
        8001,
        ge=0,
        le=65535,
        validation_alias=env("COUNCIL_NODE_PORT", field="port"),
        description="Port to listen on; 0 takes a free one.",
    )
    name: str | None = Field(
        None,
        validation_alias=env("COUNCIL_NODE_NAME", field="name"),
        description="What the node calls itself; this machine's name when unset.",
    )
    key: str | None = Field(
        None,
        validation_alias=env("COUNCIL_NODE_KEY", field="key"),
        description="Key that the master has to send; once it is set, asked for on loopback as well.",
    )
    join: str | None = Field(
        None,
        validation_alias=env("COUNCIL_NODE_JOIN", field="join"),
        description="Master to join, `https://PC1:8000`; `auto` looks for one on the LAN; `none` serves "
        "without the membership that is kept here.",
    )
    token: str | None = Field(
        None,
        validation_alias=env("COUNCIL_NODE_TOKEN", field="token"),
        description="Join token that `council worker token` prints on the master; needed once.",
    )
    engine: Literal["auto", "ollama", "openai", "embedded"] = Field(
        "auto",
        validation_alias=env("COUNCIL_NODE_ENGINE", field="engine"),
        description="`auto`: the Ollama or OpenAI-compatible server whose address is set, else an Ollama on "
        "this machine, else the embedded llama.cpp.",
    )
    ollama_base_url: str | None = Field(
        None,
        validation_alias=env("OLLAMA_BASE_URL", field="ollama_base_url"),
        description="Address of the main Ollama; http://127.0.0.1:11434 is tried when unset.",
    )
    ollama_background_base_url: str | None = Field(
        None,
        validation_alias=env("OLLAMA_BACKGROUND_BASE_URL", field="ollama_background_base_url"),
        description="Address of a second Ollama, the engine named `background`; no such engine when unset.",
    )
    openai_base_url: str | None = Field(
        None,
        validation_alias=env("COUNCIL_OPENAI_BASE_URL", field="openai_base_url"),
        description="llama-server, vLLM or LM Studio, up to and including /v1.",
    )
    openai_api_key: str | None = Field(
        None,
        validation_alias=env("COUNCIL_OPENAI_API_KEY", field="openai_api_key"),
        description="Key that the OpenAI-compatible server asks for, if it does.",
    )
    num_parallel: int = Field(
        5,
        ge=1,
        le=256,
        validation_alias=env("OLLAMA_NUM_PARALLEL", field="num_parallel"),
        description="Calls of one model that run at once. Start Ollama with the same value.",
    )
    max_loaded_models: int = Field(
        5,
        ge=1,
        le=256,
        validation_alias=env("OLLAMA_MAX_LOADED_MODELS", field="max_loaded_models"),
        description="Models of one engine that are in use at once. Start Ollama with the same value.",
    )
    context_length: int = Field(
        8192,
        ge=512,
        validation_alias=env("COUNCIL_NODE_CONTEXT", field="context_length"),
        description="Tokens of one slot, prompt and answer together. Constant per model, or engines reload.",
    )
    max_queue: int = Field(
        64,
        ge=0,
        validation_alias=env("COUNCIL_NODE_MAX_QUEUE", field="max_queue"),
        description="Calls that may wait for a slot; one more gets 503 with Retry-After.",
    )
    models_dir: Path | None = Field(
        None,
        validation_alias=env("COUNCIL_MODELS_DIR", field="models_dir"),
        description="GGUF files for the embedded engine; `models` in the data folder when unset.",
    )
    queue_timeout_s: float = Field(
        600.0,
        gt=0,
        validation_alias=env("COUNCIL_NODE_QUEUE_TIMEOUT", field="queue_timeout_s"),
        description="Longest wait for a slot of this node (seconds).",
    )
    load_timeout_s: float = Field(
        300.0,
        gt=0,
        validation_alias=env("COUNCIL_NODE_LOAD_TIMEOUT", field="load_timeout_s"),
        description="Longest load of a model (seconds).",
    )
    drain_timeout_s: float = Field(
        30.0,
        ge=0,
        validation_alias=env("COUNCIL_NODE_DRAIN_TIMEOUT", field="drain_timeout_s"),
        description="After SIGTERM: how long running calls may go on (seconds).",
    )

    @property
    def serves_tls(self) -> bool:
        """Whether other machines are served, and over TLS."""
        return not is_loopback(self.host) and not self.insecure_lan

    @property
    def models_path(self) -> Path:
        return self.models_dir or self.data_dir / "models"


class MasterSettings(_Program):
    """The master: API, page, council and cluster."""

    host: str = Field(
        "127.0.0.1", description="Address to listen on; 0.0.0.0 for the whole LAN, which takes a key."
    )
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    name: str = Field("master", description="What the master calls itself in `/health`.")
    key: str | None = Field(
        None,
        description="Key that people and programs need when the master listens off loopback; at least 16 "
        "characters.",
    )
    tls_cert: Path | None = Field(
        None,
        description="Certificate chain (PEM) that browsers trust already; off loopback the cluster's own "
        "authority signs one when unset.",
    )
    tls_key: Path | None = Field(None, description="Private key (PEM) of COUNCIL_TLS_CERT.")
    database_url: str | None = Field(
        None, description="SQLAlchemy URL; SQLite in the data folder when unset."
    )
    peer_url: str | None = Field(
        None,
        description="Where other masters on the same PostgreSQL reach this one, `https://PC1:8000`; its "
        "address as the database server sees it when unset.",
    )
    nodes: list[str] = Field(
        default_factory=list,
        description="Worker nodes, `URL`, `NAME=URL`, `NAME=URL#KEY` or, with the fingerprint that `council "
        "node start` prints, `NAME=https://…#KEY@sha256:FINGERPRINT`; more by `council worker add`.",
    )
    wake: list[str] = Field(
        default_factory=list,
        description="Network cards of PCs that may sleep, `NAME=AA:BB:CC:DD:EE:FF`, for `council worker "
        "wake`; a node that was awake once has told its own.",
    )
    wake_address: str | None = Field(
        None,
        description="Where wake-up packets go, `HOST` or `HOST:PORT`; to everybody on each network of this "
        "machine, port 9, when unset.",
    )
    node_weights: list[str] = Field(
        default_factory=list,
        description="How much a node is preferred, `NAME=WEIGHT`: one of 2 counts as twice as fast.",
    )
    generation_timeout_s: float = Field(
        120.0,
        gt=0,
        validation_alias=env("GENERATION_TIMEOUT", field="generation_timeout_s"),
        description="Longest generation (seconds), counted from the moment the call holds its slot and the "
        "model is loaded.",
    )
    first_token_timeout_s: float = Field(
        60.0, gt=0, description="From `started` to the first text (seconds); reading a prompt counts here."
    )
    stall_timeout_s: float = Field(
        30.0, gt=0, description="Longest silence of a model after its first text (seconds)."
    )
    queue_timeout_s: float = Field(600.0, gt=0, description="Longest wait for a slot (seconds).")
    load_timeout_s: float = Field(300.0, gt=0, description="Longest load of a model (seconds).")
    no_node_timeout_s: float = Field(
        15.0,
        ge=0,
        description="How long a call waits for a node to come back when none has its model (seconds).",
    )
    heartbeat_s: float = Field(
        2.0,
        gt=0,
        description="How often each node is asked for its health and models (every so many seconds).",
    )
    max_waiting_calls: int = Field(
        1000,
        ge=1,
        description="Calls that may wait for a node; more get 503. A council that was let in loses none.",
    )
    max_active_sessions: int = Field(64, ge=1, description="Sessions that run at once; more get 503.")
    default_agents: int = Field(3, ge=1, le=16, description="Seats when the question names none.")
    cors_origins: list[str] = Field(default_factory=list, description="Origins that browsers may call from.")
    ollama_model: str | None = Field(
        None,
        validation_alias=env("OLLAMA_MODEL", field="ollama_model"),
        description="Chairman when the question names none.",
    )
    ollama_background_model: str | None = Field(
        None,
        validation_alias=env("OLLAMA_BACKGROUND_MODEL", field="ollama_background_model"),
        description="Model of background work: llama3.2:3b when unset, else the first of `council models "
        "recommended --for background` that the engine has, else its smallest.",
    )
    background_policy: Literal["main_with_warning", "wait", "fail"] = Field(
        "main_with_warning",
        description="Background calls while the background engine is down: they run on the main engine and "
        "people are warned, they wait for it, or they fail.",
    )
    quick_summary_timeout_s: float = Field(
        20.0,
        gt=0,
        description="Longest wait for the quick summary of an archive (seconds); then its first sentences "
        "stand in.",
    )
    max_import_mib: int = Field(
        256, ge=1, le=16384, description="Largest file of conversations that may be imported (MiB)."
    )
    event_retention_s: float = Field(
        600.0, ge=0, description="How long events are held after a session's end (seconds)."
    )
    bg_idle_threshold_s: float = Field(
        300.0,
        ge=0,
        validation_alias=env("BG_IDLE_THRESHOLD", field="bg_idle_threshold_s"),
        description="Background work begins when nobody has asked anything for so long (seconds).",
    )
    bg_long_idle_threshold_s: float = Field(
        1800.0,
        ge=0,
        validation_alias=env("BG_LONG_IDLE_THRESHOLD", field="bg_long_idle_threshold_s"),
        description="Long background jobs begin when nobody has asked anything for so long (seconds); never "
        "before BG_IDLE_THRESHOLD.",
    )
    bg_overnight: bool = Field(
        False,
        validation_alias=env("BG_OVERNIGHT", field="bg_overnight"),
        description="Let everything run in the night's window, long jobs too, without waiting for an idle "
        "time. People who work at night notice it, so it has to be asked for; idle machines work at "
        "night anyway.",
    )
    bg_overnight_start: int = Field(
        22,
        ge=0,
        le=23,
        validation_alias=env("BG_OVERNIGHT_START", field="bg_overnight_start"),
        description="Hour at which the night's window opens, on the clock of the master's machine.",
    )
    bg_overnight_end: int = Field(
        6,
        ge=0,
        le=23,
        validation_alias=env("BG_OVERNIGHT_END", field="bg_overnight_end"),
        description="Hour at which the night's window closes; the same as its start: it is always open.",
    )
    bg_max_cpu: float = Field(
        0.5,
        gt=0,
        le=1,
        validation_alias=env("BG_MAX_CPU", field="bg_max_cpu"),
        description="Share of a machine's CPU that other programs may take before background work stops "
        "there; 1 switches this off.",
    )
    bg_max_memory: float = Field(
        0.75,
        gt=0,
        le=1,
        validation_alias=env("BG_MAX_MEMORY", field="bg_max_memory"),
        description="Share of a machine's memory that other programs may take before nothing new starts "
        "there; 1 switches this off.",
    )
    bg_on_battery: bool = Field(
        False,
        validation_alias=env("BG_ON_BATTERY", field="bg_on_battery"),
        description="Let background work run on machines that run on battery.",
    )
    bg_enable_lora: bool = Field(
        False,
        validation_alias=env("BG_ENABLE_LORA", field="bg_enable_lora"),
        description="Train an adapter on the archives. The trainer does not exist yet: `true` is refused.",
    )
    bg_lora_lr: float = Field(
        1e-4,
        gt=0,
        validation_alias=env("BG_LORA_LR", field="bg_lora_lr"),
        description="Learning rate of that training.",
    )
    bg_lora_batch: int = Field(
        4,
        ge=1,
        validation_alias=env("BG_LORA_BATCH", field="bg_lora_batch"),
        description="Examples in one step of that training.",
    )
    bg_lora_r: int = Field(
        8, ge=1, validation_alias=env("BG_LORA_R", field="bg_lora_r"), description="Rank of the adapter."
    )
    bg_lora_alpha: float = Field(
        16.0,
        gt=0,
        validation_alias=env("BG_LORA_ALPHA", field="bg_lora_alpha"),
        description="Scale of the adapter.",
    )

    @field_validator("bg_enable_lora")
    @classmethod
    def _trainer_exists(cls, value: bool) -> bool:
        if value:
            raise ValueError(
                "the trainer of adapters (LoRA) does not exist yet; leave BG_ENABLE_LORA unset or false"
            )
        return value

    bg_concurrency: int = Field(
        4,
        ge=1,
        le=64,
        validation_alias=env("BG_CONCURRENCY", field="bg_concurrency"),
        description="Background jobs that run at once, in the master and in worker processes together.",
    )
    bg_in_master: bool = Field(
        True,
        validation_alias=env("BG_IN_MASTER", field="bg_in_master"),
        description="Run background jobs in the master. With `false` they wait for a `council jobs worker`.",
    )
    bg_priorities: list[str] = Field(
        default_factory=list,
        validation_alias=env("BG_PRIORITIES", field="bg_priorities"),
        description="Other priorities than those of the job types, `TYPE=NUMBER`; the lower goes first.",
    )
    bg_max_attempts: int = Field(
        5,
        ge=1,
        le=100,
        validation_alias=env("BG_MAX_ATTEMPTS", field="bg_max_attempts"),
        description="Failures of a job after which it is a dead letter. An engine or node that is away does "
        "not count.",
    )
    bg_first_pause_s: float = Field(
        5.0,
        gt=0,
        validation_alias=env("BG_FIRST_PAUSE", field="bg_first_pause_s"),
        description="Pause of a job after its first failure (seconds); it doubles up to ten minutes.",
    )
    bg_max_calls_per_day: int | None = Field(
        None,
        ge=0,
        validation_alias=env("BG_MAX_CALLS_PER_DAY", field="bg_max_calls_per_day"),
        description="Model calls of background jobs from midnight to midnight; no limit when unset.",
    )
    bg_max_tokens_per_day: int | None = Field(
        None,
        ge=0,
        validation_alias=env("BG_MAX_TOKENS_PER_DAY", field="bg_max_tokens_per_day"),
        description="Tokens of background jobs from midnight to midnight; no limit when unset. A call that "
        "runs at the limit ends.",
    )
    bg_retention_days: float = Field(
        30.0,
        gt=0,
        validation_alias=env("BG_RETENTION_DAYS", field="bg_retention_days"),
        description="How long ended jobs are kept (days). Dead letters stay until somebody dismisses them.",
    )
    job_types: list[str] = Field(
        default_factory=list,
        description="Further job types, `MODULE:NAME` of a list of them. They run within the master: name "
        "only what you trust.",
    )

    @property
    def serves_tls(self) -> bool:
        """Whether other machines are served, and over TLS."""
        return not is_loopback(self.host) and not self.insecure_lan

    @property
    def own_certificate(self) -> tuple[Path, Path] | None:
        """Certificate chain and private key that browsers trust already. Raises `SettingsError`."""
        if (self.tls_cert is None) != (self.tls_key is None):
            raise SettingsError("COUNCIL_TLS_CERT and COUNCIL_TLS_KEY are set both or neither")
        if self.tls_cert is None or self.tls_key is None:
            return None
        return self.tls_cert, self.tls_key

    @property
    def on_server(self) -> bool:
        """Whether the rows are in PostgreSQL, which other masters may use as well."""
        return (self.database_url or "").startswith("postgres")

    @property
    def sqlalchemy_url(self) -> str:
        return self.database_url or f"sqlite+aiosqlite:///{self.data_dir / 'council.db'}"


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
