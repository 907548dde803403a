"""When tasks occur: see :mod:`pyncette.schedules`."""

from pyncette.schedules.kinds import Cron, Interval, Once, Schedule
from pyncette.schedules.text import from_options, parse

__all__ = ["Cron", "Interval", "Once", "Schedule", "from_options", "parse"]
