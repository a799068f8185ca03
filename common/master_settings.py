"""Settings of the master: `[master]` of the file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from common.background_settings import BackgroundSettings
from common.errors import SettingsError
from common.security import is_loopback
from common.settings import env


class MasterSettings(BackgroundSettings):
    """The master: API, page, council and cluster."""

    host: str = Field(
        "127.0.0.1", description="Address to listen on; 0.0.0.0 for the whole LAN, which takes a key."
    )
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    name: str = Field("master", description="What the master calls itself in `/health`.")
    key: str | None = Field(
        None,
        description="Key that people and programs need when the master listens off loopback; at least 16 "
        "characters, and not one part again and again.",
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
