"""Fields of log records that identify the run, for structured logs."""

import logging
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Protocol

__all__ = ["CURRENT", "RunFields", "fields_of"]

#: The attributes of every record, whatever is passed as ``extra``.
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _Run(Protocol):
    def fields(self) -> Mapping[str, Any]: ...


#: The run in which code runs, including asyncio tasks and ``asyncio.to_thread()`` calls that it starts.
CURRENT: ContextVar[_Run] = ContextVar("pyncette_run")


class RunFields(logging.Filter):
    """Adds ``task``, ``instance``, ``scheduled_at`` and ``attempt`` to each record that is logged within a body.

    Pyncette's own records about runs always have them. Add it to a handler: ``handler.addFilter(RunFields())``. It drops no
    records.
    """

    #: Whether any filter exists: setting the run for each body costs a twentieth of an execution, and nothing else needs it.
    wanted: bool = False

    def __init__(self) -> None:
        super().__init__()
        RunFields.wanted = True

    def filter(self, record: logging.LogRecord) -> bool:
        run = CURRENT.get(None)
        if run is not None:
            for name, value in run.fields().items():
                if name not in record.__dict__:
                    setattr(record, name, value)
        return True


def fields_of(record: logging.LogRecord) -> Mapping[str, Any]:
    """The extra fields of a record, without those that are None."""
    return {name: value for name, value in vars(record).items() if name not in _USUAL and value is not None}
