"""Settings of the worker node: `[node]` of the file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from common.security import is_loopback
from common.settings import ProgramSettings, env


class NodeSettings(ProgramSettings):
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
        description="Longest load of a model (seconds). One that an Ollama does not answer for twice "
        "as long is given up, so that others can load.",
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
