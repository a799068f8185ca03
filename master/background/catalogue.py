"""The kinds of jobs that this installation knows, and how urgent each is here."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from common.errors import InvalidRequestError, SettingsError
from master.background.job import JobInput, JobType
from master.background.types import JOB_TYPES
from master.state.jobs import NewJob

LEAST_URGENT = 1000


@dataclass(frozen=True, slots=True)
class Catalogue:
    types: Mapping[str, JobType[Any]]

    @classmethod
    def of(cls, *, priorities: Iterable[str] = (), extensions: Iterable[str] = ()) -> Catalogue:
        """The types of the product and of `extensions` (`MODULE:NAME`). Raises `SettingsError`."""
        types: dict[str, JobType[Any]] = {}
        for one in (*JOB_TYPES, *(found for place in extensions for found in _load(place))):
            if one.name in types:
                raise SettingsError(f"two job types are named {one.name}")
            types[one.name] = one
        for name, priority in map(_parse_priority, priorities):
            if name not in types:
                raise SettingsError(f"BG_PRIORITIES names {name}; job types are: {', '.join(sorted(types))}")
            types[name] = replace(types[name], priority=priority)
        return cls(types)

    def get(self, name: str) -> JobType[Any]:
        """Raises `InvalidRequestError` that lists what there is."""
        found = self.types.get(name)
        if found is None:
            known = ", ".join(sorted(self.types)) or "none"
            raise InvalidRequestError(f"there is no job type {name}; there are: {known}")
        return found

    def new(
        self,
        name: str,
        given: JobInput | Mapping[str, Any],
        *,
        priority: int | None = None,
        key: str | None = None,
        custom_id: str | None = None,
        not_before: datetime | None = None,
    ) -> NewJob:
        """A job to be added, its input checked. Raises `InvalidRequestError`."""
        kind = self.get(name)
        checked = self.read(name, given.model_dump(mode="json") if isinstance(given, JobInput) else given)
        return NewJob(
            kind.name,
            checked.model_dump(mode="json"),
            kind.priority if priority is None else priority,
            long=kind.long,
            key=key,
            custom_id=custom_id,
            not_before=not_before,
        )

    def read(self, name: str, given: Mapping[str, Any]) -> JobInput:
        """The input as its type wants it. Raises `InvalidRequestError`."""
        try:
            checked: JobInput = self.get(name).input.model_validate(dict(given))
        except ValidationError as error:
            what = "; ".join(
                f"{'.'.join(str(part) for part in one['loc']) or 'input'}: {one['msg']}"
                for one in error.errors(include_url=False)
            )
            raise InvalidRequestError(f"this is no input of {name}: {what}") from error
        return checked


def _parse_priority(entry: str) -> tuple[str, int]:
    name, _, number = entry.partition("=")
    try:
        priority = int(number)
    except ValueError:
        priority = -1
    if not 0 <= priority <= LEAST_URGENT:
        raise SettingsError(
            f"BG_PRIORITIES: {entry!r} is not TYPE=NUMBER with a number from 0 to {LEAST_URGENT}"
        )
    return name.strip(), priority


def _load(place: str) -> Sequence[JobType[Any]]:
    module, _, name = place.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(f"COUNCIL_JOB_TYPES: {place} cannot be loaded ({error})") from error
    if not isinstance(found, list | tuple) or not all(isinstance(one, JobType) for one in found):
        raise SettingsError(f"COUNCIL_JOB_TYPES: {place} is not a list of job types")
    return found
