"""Settings of background work, a part of the master's. Their names are the ones that users wrote."""

from __future__ import annotations

from pydantic import Field, field_validator

from common.settings import ProgramSettings, env


class BackgroundSettings(ProgramSettings):
    """When background work runs, how much of it, and in which order."""

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
