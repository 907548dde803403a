"""What a process does with tasks short of running them: schedule, look up, list, pause, remove.

No engine: all that a web process needs. ``base`` knows which row is meant; each further module has the calls of one kind.
"""

from pyncette.client.changing import Changing
from pyncette.client.looking import Looking, TaskPage
from pyncette.client.scheduling import Scheduling

__all__ = ["Client", "TaskPage"]


class Client(Scheduling, Looking, Changing):
    """Schedules and looks up the tasks of one application in its open store."""
