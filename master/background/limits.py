"""What the settings say of jobs: how many at once, how often again, how long kept, what they may spend."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from common.master_settings import MasterSettings
from master.background.caps import Caps


@dataclass(frozen=True, slots=True)
class JobLimits:
    """What the settings say of jobs."""

    concurrency: int = 4
    max_attempts: int = 5
    first_pause_s: float = 5.0
    retention: timedelta = timedelta(days=30)
    caps: Caps = field(default_factory=Caps)

    @classmethod
    def of(cls, settings: MasterSettings) -> JobLimits:
        return cls(
            settings.bg_concurrency,
            settings.bg_max_attempts,
            settings.bg_first_pause_s,
            timedelta(days=settings.bg_retention_days),
            Caps(settings.bg_max_calls_per_day, settings.bg_max_tokens_per_day),
        )
