"""What users declare: see :mod:`pyncette.tasks`."""

from pyncette.checks import (
    check_count,
    check_duration,
    check_free_arguments,
    check_name,
    dump_arguments,
    is_coroutine_function,
)
from pyncette.context import Body
from pyncette.tasks import (
    STATIC_PARTITION,
    DynamicTask,
    ExecutionMode,
    FailureMode,
    Instance,
    PartitionedTask,
    PartitionSelector,
    ScheduledTask,
    StaticTask,
    Task,
    TaskInstance,
    Template,
    crc32_selector,
)

__all__ = [
    "STATIC_PARTITION",
    "Body",
    "DynamicTask",
    "ExecutionMode",
    "FailureMode",
    "Instance",
    "PartitionSelector",
    "PartitionedTask",
    "ScheduledTask",
    "StaticTask",
    "Task",
    "TaskInstance",
    "Template",
    "check_count",
    "check_duration",
    "check_free_arguments",
    "check_name",
    "crc32_selector",
    "dump_arguments",
    "is_coroutine_function",
]
