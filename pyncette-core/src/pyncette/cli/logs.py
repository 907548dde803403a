"""The log of ``pyncette run``: its destination and format."""

import json
import logging
import sys
import textwrap
from datetime import UTC, datetime

from pyncette.cli.output import printable
from pyncette.logs import RunFields, fields_of
from pyncette.program import configure_logging

__all__ = ["configure", "handler"]

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_TEXT_OF_SEVERAL = "%(asctime)s %(levelname)s [%(process)d] %(name)s: %(message)s"


def configure(level: str | None, style: str | None, *, several: bool) -> None:
    """Log to standard output. The application's own logging is replaced only if one of the options is given.

    :param style: ``text`` or ``json``.
    :param several: several processes log to the same place, so each line names its process.
    """
    configure_logging(level, handlers=[handler(style, several=several)], force=bool(level or style))


def handler(style: str | None, *, several: bool) -> logging.Handler:
    """The handler; the parameters are those of :func:`configure`."""
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(RunFields())
    handler.setFormatter(_JSON() if style == "json" else _Text(_TEXT_OF_SEVERAL if several else _TEXT))
    return handler


class _Text(logging.Formatter):
    """A line, with further lines of the same record indented: no text in a name or an error can pass for a separate record."""

    def format(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        record.asctime = self.formatTime(record, self.datefmt)
        lines = [printable(self.formatMessage(record))]
        # Don't cache the traceback in the record, as the base class does, because other handlers share the record.
        if record.exc_info:
            lines.append(_indented(self.formatException(record.exc_info)))
        if record.stack_info:
            lines.append(_indented(self.formatStack(record.stack_info)))
        return "\n".join(lines)


def _indented(text: str) -> str:
    # Split at line feeds only: other line ends are escaped.
    return textwrap.indent("\n".join(map(printable, text.split("\n"))), "  ")


class _JSON(logging.Formatter):
    """A JSON object per line: the fields of all records, and those of this one, such as the run that it is about."""

    def format(self, record: logging.LogRecord) -> str:
        values = {
            **fields_of(record),
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            values["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            values["stack"] = self.formatStack(record.stack_info)
        return json.dumps(values, default=str, skipkeys=True)
