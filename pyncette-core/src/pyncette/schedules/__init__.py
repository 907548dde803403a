"""When a thing occurs. Knows no store and no task.

``zones`` finds time zones, ``cron`` reads cron expressions, ``kinds`` has the schedules, ``text`` turns them into text and back.
"""

__all__: list[str] = []
