"""The objects that users declare: static tasks, and templates."""

import contextlib
import copy
import functools
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias

from pyncette import partitions
from pyncette.arguments import plain_arguments
from pyncette.checks import check_count, check_duration, check_name, check_type
from pyncette.errors import ConfigurationError
from pyncette.instances import Instance, registration
from pyncette.partitions import crc32_selector
from pyncette.policies import CatchUp, ExecutionMode, FailureMode, Retry, check_policies
from pyncette.schedules.kinds import Schedule
from pyncette.signatures import check_body, runs_in_thread
from pyncette.store.contract import Key, Registration
from pyncette.values import plain_duration, plain_text

__all__ = [
    "HISTORY",
    "STATIC_PARTITION",
    "TEMPLATE_OPTIONS",
    "DynamicTask",
    "PartitionSelector",
    "PartitionedTask",
    "StaticTask",
    "Task",
    "TaskInstance",
    "Template",
    "crc32_selector",
    "settled",
    "stored_arguments",
]

#: ``(partition_count, instance name) -> index``; it must never change, because it says where an instance is stored.
PartitionSelector: TypeAlias = Callable[[int, str], int]

STATIC_PARTITION = partitions.STATIC
#: How long the runs of static tasks are kept by default.
HISTORY = timedelta(days=7)

if TYPE_CHECKING:  # which all type checkers know, even if it is not installed
    from typing_extensions import TypeVar

    #: The return type of a body, and the type of its argument: anything, for a ``Task`` without brackets.
    _R_co = TypeVar("_R_co", covariant=True, default=Any)
    _C_contra = TypeVar("_C_contra", contravariant=True, default=Any)
else:
    from typing import TypeVar

    _R_co = TypeVar("_R_co", covariant=True)
    _C_contra = TypeVar("_C_contra", contravariant=True)

#: The attribute in which a task counts the applications that run it. Not a field, because it is not an option.
_RUNNING = "_running"


@dataclass(eq=False, kw_only=True)
class Task(Generic[_R_co, _C_contra]):
    """A declared function with its options. Calling the task calls the function, for unit tests.

    For type checkers, ``Task[R, C]`` is one whose function takes a ``C``, a :class:`~pyncette.Context`, and returns an ``R``.

    Only ``enabled``, and ``enabled_partitions`` of a partitioned task, can be set later, and not while an application runs the
    task.
    """

    name: Final[str]
    #: A function of one argument, a :class:`~pyncette.Context`; typed precisely where users see it.
    body: Final[Callable[[_C_contra], _R_co]]  # type: ignore[misc] # mypy has no such constants in generic classes
    args: Final[Mapping[str, Any]] = field(default_factory=dict, repr=False)
    execution_mode: Final[ExecutionMode] = ExecutionMode.AT_LEAST_ONCE
    failure_mode: Final[FailureMode] = FailureMode.NONE
    lease_duration: Final[timedelta] = timedelta(seconds=60)
    #: How long a body may run before it is cancelled and counts as failed. None: no limit.
    timeout: Final[timedelta | None] = None
    #: Which missed occurrences run after all, and how late they may start; ``fast_forward=True`` is short for LATEST.
    catch_up: Final[CatchUp] = CatchUp.ALL
    catch_up_window: Final[timedelta | None] = None
    fast_forward: Final[bool] = False
    enabled: bool = True
    #: The maximum number of attempts, after which an occurrence is given up. None: no limit.
    max_attempts: Final[int | None] = None
    #: The pause before a retry under FailureMode.UNLOCK. None: one poll interval.
    retry_delay: Final[timedelta | None] = None
    #: How often and when a failed occurrence is retried; None: as the failure mode and the two options above say.
    retry: Final[Retry | None] = None
    #: 1: runs of a row don't overlap, which AT_MOST_ONCE alone does not guarantee.
    max_running: Final[int | None] = None
    #: How long the store keeps each run. None: not at all.
    history: timedelta | None = None
    #: Derived from these: the maximum number of attempts; whether an occurrence is committed before it runs; whether missed ones may
    #: be skipped; whether the body runs within limits.
    attempts: Final[int | None] = field(init=False, repr=False)
    commits_first: Final[bool] = field(init=False, repr=False)
    skips: Final[bool] = field(init=False, repr=False)
    bounded: Final[bool] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        what = f"task {self.name!r}"
        check_name(self.name, "task")
        check_body(self.body, f"The body of {what}")
        check_type(self.execution_mode, ExecutionMode, f"execution_mode of {what}")
        check_type(self.failure_mode, FailureMode, f"failure_mode of {what}")
        check_type(self.fast_forward, bool, f"fast_forward of {what}")
        check_type(self.enabled, bool, f"enabled of {what}")
        self.__dict__["history"] = self.history or None  # zero and False are accepted, too
        for option in ("lease_duration", "timeout", "retry_delay", "history", "catch_up_window"):
            duration = getattr(self, option)
            if duration is not None or option == "lease_duration":
                check_duration(duration, f"{option} of {what}", zero=option in ("retry_delay", "catch_up_window"))
                self.__dict__[option] = plain_duration(duration)
        if self.max_attempts is not None:
            check_count(self.max_attempts, f"max_attempts of {what}")
        check_policies(self, what)
        self.__dict__["catch_up"] = CatchUp.LATEST if self.fast_forward else self.catch_up
        self.__dict__["attempts"] = 1 if self.max_running else self.max_attempts if self.retry is None else self.retry.attempts
        self.__dict__["commits_first"] = self.execution_mode is ExecutionMode.AT_MOST_ONCE and self.max_running is None
        self.__dict__["bounded"] = self.timeout is not None or self.max_running is not None
        self.__dict__["skips"] = self.catch_up is not CatchUp.ALL or self.catch_up_window is not None
        self.__dict__["name"] = plain_text(self.name)
        self.__dict__["args"] = plain_arguments(self.args, what)
        self.__dict__[_RUNNING] = 0

    def __setattr__(self, name: str, value: Any) -> None:
        if _RUNNING in self.__dict__:  # __init__ has ended
            if name not in ("enabled", "enabled_partitions") or not hasattr(self, name):
                raise FrozenInstanceError(f"{name!r} of task {self.name!r} can't be set; pass it where the task is declared")
            if self.__dict__[_RUNNING]:
                raise ConfigurationError(f"Task {self.name!r} runs already; set its {name} before run()")
            replace(self, **{name: value})  # raises if the value is invalid
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"{name!r} of task {self.name!r} can't be deleted")

    def __call__(self, context: _C_contra) -> _R_co:
        return self.body(context)

    @functools.cached_property
    def in_thread(self) -> bool:
        """Whether the body is a plain function, ``def`` rather than ``async def``."""
        return runs_in_thread(self.body)

    @property
    def template(self) -> "Task[_R_co, _C_contra]":
        """The declaration: the task itself, or the template of a :class:`TaskInstance`."""
        return self

    def __str__(self) -> str:
        return self.name

    def partitions(self) -> Sequence[str]:
        """The partitions that this process polls for the task."""
        raise NotImplementedError  # pragma: no cover

    def arguments(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a run: those of the declaration, overridden by the ``stored`` ones. A fresh copy."""
        return {**copy.deepcopy(dict(self.args)), **stored} if self.args else {**stored}


def stored_arguments(spec: str) -> dict[str, Any]:
    """The stored arguments; raises ValueError if they are not valid."""
    stored = json.loads(spec) if spec != "{}" else {}
    if not isinstance(stored, dict):
        raise ConfigurationError("The stored arguments are not a JSON object")
    return stored


@contextlib.contextmanager
def settled(tasks: Iterable[Task]) -> Iterator[None]:
    """While this lasts, no option of ``tasks`` can be set."""
    for task in tasks:
        task.__dict__[_RUNNING] += 1
    try:
        yield
    finally:
        for task in tasks:
            task.__dict__[_RUNNING] -= 1


@dataclass(eq=False, kw_only=True)
class StaticTask(Task[_R_co, _C_contra]):
    """A task with its schedule in code."""

    schedule: Final[Schedule]
    history: timedelta | None = HISTORY

    def partitions(self) -> Sequence[str]:
        return [STATIC_PARTITION]

    @property
    def key(self) -> Key:
        return Key(STATIC_PARTITION, self.name)

    def has_ended(self, now: datetime) -> bool:
        """Whether the schedule has no occurrence after ``now``, so that there is nothing to register."""
        return self.schedule.first(now) is None

    def registration(self, now: datetime) -> Registration:
        """The registration of the task, without its arguments, which belong to the code."""
        return registration(self.key, "{}", self.schedule, now, keep_overdue=True)


@dataclass(eq=False, kw_only=True)
class Template(Task[_R_co, _C_contra]):
    """A task whose instances, each with its own schedule and arguments, are scheduled at run time."""

    def all_partitions(self) -> Sequence[str]:
        """All partitions that may have instances, whether or not this process polls them."""
        raise NotImplementedError  # pragma: no cover

    def partition_of(self, name: str) -> str:
        """The partition of the instance ``name``."""
        raise NotImplementedError  # pragma: no cover

    def key(self, name: str) -> Key:
        """The key of the instance ``name``; raises ConfigurationError for an invalid name."""
        check_name(name, f"instance of {self.name!r}")
        name = plain_text(name)
        return Key(self.partition_of(name), name)

    def registration(self, instance: Instance, now: datetime) -> Registration:
        """The registration of ``instance``; raises ConfigurationError if anything in it is invalid."""
        return instance.registration(self.key(instance.name), self.name, now)


@dataclass(eq=False, kw_only=True)
class DynamicTask(Template[_R_co, _C_contra]):
    """A template whose instances are stored in one partition."""

    def partitions(self) -> Sequence[str]:
        return self.all_partitions()

    def all_partitions(self) -> Sequence[str]:
        return [partitions.dynamic(self.name)]

    def partition_of(self, name: str) -> str:
        return partitions.dynamic(self.name)


@dataclass(slots=True, repr=False, unsafe_hash=True)
class TaskInstance:
    """An instance of a template, by name. It also has the template's options as attributes."""

    name: Final[str]
    template: Final[Template]

    @property
    def key(self) -> Key:
        return self.template.key(self.name)

    def __call__(self, context: Any) -> Any:
        return self.template(context)

    def __getattr__(self, name: str) -> Any:
        # Not self.template, which would recurse in a copy, where it is not set yet.
        return getattr(object.__getattribute__(self, "template"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(self, "template"):  # the last attribute that __init__ sets
            raise FrozenInstanceError(f"{name!r} of the instance {str(self)!r} can't be set; set options on the template")
        object.__setattr__(self, name, value)

    def __str__(self) -> str:
        return f"{self.template.name}:{self.name}"

    def __repr__(self) -> str:
        return f"TaskInstance({self.name!r} of {self.template.name!r})"


@dataclass(eq=False, kw_only=True)
class PartitionedTask(Template[_R_co, _C_contra]):
    """A template whose instances are spread over many partitions, polled by all processes or divided among them."""

    partition_count: Final[int]
    partition_selector: Final[PartitionSelector] = crc32_selector
    #: The indices that this process polls; None: all.
    enabled_partitions: Sequence[int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self.partition_count, f"partition_count of task {self.name!r}")
        if not callable(self.partition_selector):
            raise ConfigurationError(
                f"The partition_selector of task {self.name!r} is {self.partition_selector!r}; pass a function"
            )
        if self.enabled_partitions is None:
            return
        if not isinstance(self.enabled_partitions, Collection) or isinstance(self.enabled_partitions, str | bytes):
            raise ConfigurationError(
                f"enabled_partitions of task {self.name!r} is {self.enabled_partitions!r}; pass a list of indices"
            )
        for index in self.enabled_partitions:
            if not self._is_index(index):
                raise ConfigurationError(
                    f"enabled_partitions of task {self.name!r} contains {index!r}; use indices from 0 to {self.partition_count - 1}"
                )

    def partitions(self) -> Sequence[str]:
        if self.enabled_partitions is None:
            return self.all_partitions()
        return [partitions.partitioned(index, self.name) for index in dict.fromkeys(self.enabled_partitions)]

    def all_partitions(self) -> Sequence[str]:
        return [partitions.partitioned(index, self.name) for index in range(self.partition_count)]

    def partition_of(self, name: str) -> str:
        index = self.partition_selector(self.partition_count, name)
        if not self._is_index(index):
            raise ConfigurationError(
                f"The partition_selector of task {self.name!r} returned {index!r} for {name!r}; "
                f"it must return an index from 0 to {self.partition_count - 1}"
            )
        return partitions.partitioned(index, self.name)

    def _is_index(self, index: object) -> bool:
        # not a bool, which would give the partition another name
        return isinstance(index, int) and not isinstance(index, bool) and 0 <= index < self.partition_count


#: The options of a template that are not options of its instances.
TEMPLATE_OPTIONS = tuple(each.name for each in fields(PartitionedTask) if each.init and each.name not in ("name", "body", "args"))
