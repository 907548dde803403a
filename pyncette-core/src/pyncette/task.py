"""What users declare: see :mod:`pyncette.tasks`."""

from pyncette.arguments import dump_arguments
from pyncette.checks import check_count, check_duration, check_free_arguments, check_name
from pyncette.context import Body
from pyncette.instances import Instance
from pyncette.policies import ExecutionMode, FailureMode
from pyncette.scheduled import ScheduledTask
from pyncette.signatures import is_coroutine_function
from pyncette.tasks import (
    STATIC_PARTITION,
    DynamicTask,
    PartitionedTask,
    PartitionSelector,
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
