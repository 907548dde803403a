"""When tasks occur: see :mod:`pyncette.schedules`."""

from pyncette.schedules.bounds import Bounded
from pyncette.schedules.kinds import Cron, Extra, Interval, Once, Schedule
from pyncette.schedules.rules import RRule
from pyncette.schedules.spread import spread
from pyncette.schedules.text import from_options, parse

__all__ = ["Bounded", "Cron", "Extra", "Interval", "Once", "RRule", "Schedule", "from_options", "parse", "spread"]
