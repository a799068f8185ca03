"""When a schedule is due next: five cron fields, on the clock of the wall where the master runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from common.errors import InvalidRequestError


def next_after(cron: str, moment: datetime) -> datetime:
    """The first time after `moment` (aware) that `cron` names, in UTC. Raises `InvalidRequestError`.

    A time that the clock leaps over in spring comes an hour later; one that it shows twice in autumn counts
    once, because the next one is looked for on the clock and not in hours that have passed.
    """
    from croniter import CroniterError, croniter  # late: few masters have schedules

    fields = cron.split()
    if len(fields) != 5:
        raise InvalidRequestError(
            f"{cron!r} is no schedule; one is minute, hour, day, month, weekday, such as `30 3 * * *`"
        )
    wall = moment.astimezone().replace(tzinfo=None)
    try:
        found: datetime = croniter(" ".join(fields), wall, max_years_between_matches=10).get_next(datetime)
    except (CroniterError, ValueError, KeyError) as error:
        raise InvalidRequestError(f"{cron!r} is no schedule: {error}") from error
    due = found.astimezone(UTC)
    # In the hour that the clock shows twice the wall's next minute may lie in the past.
    return due if due > moment else next_after(cron, moment + timedelta(hours=1))
