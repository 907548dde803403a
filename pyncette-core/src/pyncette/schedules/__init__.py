"""Schedules: when something occurs. This package knows no store and no task.

``zones`` finds time zones (``suggestions`` guesses what a wrong name means), ``cron`` reads cron expressions, ``kinds`` has the schedules, ``spread``
resolves ``H`` in cron, ``rulewords`` reads and ``rules`` follows iCalendar rules, ``bounds`` adds start, end and jitter, and ``text`` converts schedules to
text and back.
"""

__all__: list[str] = []
