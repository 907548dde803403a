"""When tasks occur: see :mod:`pyncette.schedules`."""

from pyncette.schedules.kinds import Cron, Extra, Interval, Once, Schedule
from pyncette.schedules.text import from_options, parse

__all__ = ["Cron", "Extra", "Interval", "Once", "Schedule", "from_options", "parse"]
