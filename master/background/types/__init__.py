"""The kinds of background jobs, one file each, and the one list of them."""

from __future__ import annotations

from typing import Any

from master.background.job import JobType
from master.background.types.summarise import SUMMARISE

JOB_TYPES: tuple[JobType[Any], ...] = (SUMMARISE,)
