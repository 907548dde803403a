"""When a thing occurs. Knows no store and no task.

``values`` makes plain what comes in, ``zones`` finds time zones (``suggestions`` says what somebody may have meant), ``cron`` reads cron expressions, ``kinds`` has the schedules, ``spread``
says what ``H`` in cron is, ``rulewords`` reads and ``rules`` follows the rules of iCalendar, ``bounds`` narrows a schedule down, ``text`` turns them into text and back.
"""

__all__: list[str] = []
