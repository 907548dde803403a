"""Decides which partition is polled when, and in which order. Pure: knows no clock, no loop and no store.

All times here are seconds on the monotonic clock.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from pyncette import partitions
from pyncette.tasks import STATIC_PARTITION, StaticTask, Task
from pyncette.waiting import Backoff

__all__ = ["Lane", "Lanes"]

#: The minimum time between two polls of a partition (seconds), unless the first returned as many rows as it could; longer while rows are
#: due but can't be claimed because another worker holds them.
_FLOOR = 0.005
#: Timers of the event loop and the store-aligned clock differ by less than this (seconds); waking early would cost a poll.
_TIMER_SLACK = 0.0005
#: After an error of the store, the pause before the partition is polled again (seconds), doubled up to the limit.
_FIRST_PAUSE, _LAST_PAUSE = 0.1, 2.0
#: The maximum number of concurrent polls; those that last longer than a poll interval don't count.
_MOST_POLLS = 8
#: For how long (seconds) a lane ignores hints after one that brought nothing, doubled up to the limit: if many processes are woken for
#: one row, those that come too late stop competing.
_FIRST_DEAF, _LAST_DEAF = 0.025, 0.4


@dataclass(slots=True, eq=False)
class Lane:
    """Something to claim from: a partition of a template, or static tasks that share a lease duration."""

    partition: str
    lease_duration: timedelta
    tasks: Mapping[str, Task] | Task
    #: Whether this lane only reads rows for other lanes, which are polled when one of their rows is ready.
    looks: bool = False
    watched: bool = False
    #: Whether nothing may be claimed, because the template is paused, or may be.
    paused: bool = False
    #: The longest time without a poll (seconds), if it differs from other lanes.
    every: float | None = None
    #: Whether bodies run in threads, of which there are fewer than slots; and how many threads the current poll may fill.
    in_threads: bool = False
    reserved: int = 0
    #: When the next poll is due, and when the last one was.
    due: float = 0.0
    polled: float = float("-inf")
    #: The next poll comes no sooner than this (seconds) after the last, unless that returned as many rows as it could.
    pause: float = _FLOOR
    backoff: Backoff = field(default_factory=lambda: Backoff(_FIRST_PAUSE, _LAST_PAUSE))
    #: When a poll because of a hint is due, whether the last poll was one, and from when on the next hint counts.
    hinted: float = float("inf")
    on_hint: bool = False
    deaf_until: float = float("-inf")
    deafness: Backoff = field(default_factory=lambda: Backoff(_FIRST_DEAF, _LAST_DEAF))

    @property
    def names(self) -> Sequence[str] | None:
        """The names of the static tasks to claim; None: any row."""
        return None if isinstance(self.tasks, Task) else list(self.tasks)

    def task(self, name: str) -> Task:
        """The task of the row ``name``; raises KeyError for a row that this lane does not claim."""
        return self.tasks if isinstance(self.tasks, Task) else self.tasks[name]


class Lanes:
    """All lanes of a process, and the order of their turns.

    Static tasks come first, and again before each other lane; the others take turns. So neither starves, however long the backlogs.
    """

    def __init__(self, tasks: Sequence[Task], look_every: float | None = None, threads: Callable[[], int] = lambda: 0) -> None:
        """``look_every``: how often (seconds) to check which templates are paused and which tasks have extra runs; None: never.

        :param threads: returns how many more bodies for threads may be claimed.
        """
        static: dict[tuple[timedelta, bool], dict[str, Task]] = {}
        self._threads = threads
        self._dynamic: deque[Lane] = deque()
        for task in tasks:
            if isinstance(task, StaticTask):
                static.setdefault((task.lease_duration, task.in_thread), {})[task.name] = task
            else:
                self._dynamic.extend(
                    Lane(partition, task.lease_duration, task, paused=look_every is not None, in_threads=task.in_thread)
                    for partition in task.partitions()
                )
        #: The lanes of each template.
        self._lanes_of: dict[Task, list[Lane]] = {}
        for lane in self._dynamic:
            if isinstance(lane.tasks, Task):
                self._lanes_of.setdefault(lane.tasks, []).append(lane)
        # A claim has one lease duration and one limit. If there are several, one lane reads the rows for all of them, so that an idle process
        # makes a single call.
        several = len(static) > 1
        self._static = [
            Lane(STATIC_PARTITION, lease, names, watched=several, in_threads=in_threads)
            for (lease, in_threads), names in static.items()
        ]
        self._by_partition: dict[str, list[Lane]] = {}
        #: The lane that reads which templates are paused and which tasks have extra runs. It needs no slot, and delays nobody.
        self._facts: Lane | None = None
        for lane in self:
            self._by_partition.setdefault(lane.partition, []).append(lane)
        if several:
            every = {name: task for names in static.values() for name, task in names.items()}
            self._static.append(Lane(STATIC_PARTITION, min(static)[0], every, looks=True))
        if look_every is not None and tasks:
            self._facts = Lane(partitions.LAYOUTS, timedelta(), {}, looks=True, every=look_every)
        #: Lanes for extra runs of static tasks, which are used once there are some.
        self._extra = {partitions.extra_runs(task.name): task for task in tasks if isinstance(task, StaticTask)}
        #: The static lanes that have had a turn since the last other lane.
        self._served: set[Lane] = set()
        self._polling: set[Lane] = set()
        self._failing: set[Lane] = set()

    def __iter__(self) -> Iterator[Lane]:
        if self._facts is not None:
            yield self._facts
        yield from self._static
        yield from self._dynamic

    def of(self, partition: str) -> Sequence[Lane]:
        """The lanes that claim from ``partition``."""
        if partition in (partitions.LAYOUTS, partitions.BELLS):
            return () if self._facts is None else (self._facts,)
        if partition in self._extra and partition not in self._by_partition:
            task = self._extra[partition]
            lane = Lane(partition, task.lease_duration, task, watched=True, due=float("inf"), in_threads=task.in_thread)
            self._by_partition[partition] = [lane]
            self._dynamic.append(lane)
        return self._by_partition.get(partition, ())

    def pause(self, task: Task, paused: bool) -> None:
        """Claim nothing more of ``task``, or continue with it."""
        for lane in self._lanes_of.get(task, ()):
            lane.paused = paused

    def of_static(self, task: StaticTask) -> Lane:
        """The lane that claims the row of a static task."""
        return next(
            lane for lane in self._by_partition[STATIC_PARTITION] if not isinstance(lane.tasks, Task) and task.name in lane.tasks
        )

    def room(self, lane: Lane) -> float:
        """How many rows may be claimed from ``lane``, considering the threads that its bodies need."""
        return self._threads() - sum(each.reserved for each in self._polling) if lane.in_threads else float("inf")

    @property
    def failing(self) -> bool:
        """Whether the last poll of any partition raised."""
        return bool(self._failing)

    def due_at(self) -> float:
        """When the next poll is due; infinity if none ever is."""
        open_lanes = (lane for lane in self if lane not in self._polling and not lane.paused)
        return min((lane.due for lane in open_lanes if not lane.in_threads or self.room(lane) > 0), default=float("inf"))

    def overdue(self, now: float, patience: float) -> bool:
        """Whether any poll has been in progress for more than ``patience`` seconds."""
        return any(now - lane.polled > patience for lane in self._polling)

    def next(self, now: float, free: int, patience: float) -> tuple[Lane, int] | None:
        """The next lane to poll, and how many of the ``free`` slots it may fill; None if none is due, or enough polls are in progress.

        If several are due, each gets a share, so that a call that hangs holds only that. A lane that failed before gets a single row.
        """
        if self._facts is not None and self._is_due(self._facts, now):
            return self._facts, 0
        if free <= 0 or sum(now - lane.polled <= patience for lane in self._polling) >= _MOST_POLLS:
            return None
        static = [lane for lane in self._static if self._is_due(lane, now)]
        fresh = [lane for lane in static if lane not in self._served]
        lane = _longest_unpolled(fresh) or self._turn(now) or _longest_unpolled(static)
        if lane is None:
            return None
        if isinstance(lane.tasks, Task):
            self._served.clear()
        else:
            self._served.add(lane)
        if lane.looks:
            return lane, 0
        if lane.in_threads:
            free = int(min(free, self.room(lane)))
        limit = self._share(lane, free, now, len(static))
        lane.reserved = limit if lane.in_threads else 0
        return lane, limit

    def _share(self, lane: Lane, free: int, now: float, static: int) -> int:
        if lane in self._failing:
            return 1
        if not isinstance(lane.tasks, Task):
            return min(free, len(lane.tasks))
        waiting = 1 + static + self._count_due(now, _MOST_POLLS)
        # keep some slots for lanes that become due while this poll is in progress
        most = free if len(self._by_partition) == 1 else -(-3 * free // 4)
        return min(most, -(-free // min(waiting, _MOST_POLLS)))

    def _turn(self, now: float) -> Lane | None:
        for _ in range(len(self._dynamic)):
            lane = self._dynamic[0]
            self._dynamic.rotate(-1)  # the next partition gets the next turn
            if self._is_due(lane, now):
                return lane
        return None

    def _is_due(self, lane: Lane, now: float) -> bool:
        if lane.due > now or lane in self._polling or lane.paused:
            return False
        return not lane.in_threads or self.room(lane) > 0

    def _count_due(self, now: float, most: int) -> int:
        due = (lane for lane in self._dynamic if self._is_due(lane, now))
        return sum(1 for _ in itertools.islice(due, most)) - 1

    # --- the progress of a poll -------------------------------------------------------------------------------------

    def begin(self, lane: Lane, now: float, poll_every: float) -> None:
        """A poll is sent. If it fails, it may still have been applied: its rows become ready again when the lease expires."""
        self._polling.add(lane)
        lane.polled, lane.due = now, now + (float("inf") if lane.watched else lane.every or poll_every)
        lane.on_hint, lane.hinted = lane.hinted <= now, float("inf")

    def end(self, lane: Lane) -> None:
        """The poll has ended."""
        self._polling.discard(lane)

    def succeeded(self, lane: Lane, claimed: int, limit: int, ready_in: float | None, poll_every: float) -> None:
        """The poll has returned ``claimed`` rows out of at most ``limit``; the next row is ready in ``ready_in`` seconds, as far as known."""
        self._failing.discard(lane)
        lane.backoff.reset()
        if claimed:
            lane.deafness.reset()
        elif lane.on_hint and not lane.looks:
            lane.deaf_until = lane.polled + lane.deafness.next()
        if claimed >= limit > 0:
            lane.due, lane.pause = lane.polled, _FLOOR
            return
        # a claim that is neither settled nor extended becomes ready when its lease expires
        wait = lane.lease_duration.total_seconds() if claimed else float("inf") if lane.watched else lane.every or poll_every
        if ready_in is not None:
            wait = min(wait, ready_in)
        lane.pause = _FLOOR if claimed or wait > 0 else min(2 * lane.pause, poll_every)
        lane.due = max(lane.polled + lane.pause, min(lane.due, lane.polled + wait + _TIMER_SLACK))

    def failed(self, lane: Lane, now: float) -> None:
        """The poll has raised an error: this lane is polled again later, and no other lane waits for it."""
        self._failing.add(lane)
        lane.due = now + lane.backoff.next()

    def expect(self, lane: Lane, now: float, ready_in: float, *, hinted: bool = False) -> bool:
        """A row can be claimed in ``ready_in`` seconds: poll no later than that. Returns whether that is earlier than planned.

        :param hinted: a hint of another process, which others may have received, too.
        """
        due = max(now + (ready_in + _TIMER_SLACK if ready_in > 0 else 0.0), lane.polled + _FLOOR)
        if lane.due <= now or due >= lane.due or lane in self._failing:
            return False
        if hinted:
            due = max(due, lane.deaf_until)
            if due >= lane.due:
                return False
            lane.hinted = due
        lane.due = due
        return True


def _longest_unpolled(lanes: Sequence[Lane]) -> Lane | None:
    return min(lanes, key=lambda lane: lane.polled, default=None)
