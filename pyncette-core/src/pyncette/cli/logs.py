"""Where the log of ``pyncette run`` goes, and what a line of it looks like."""

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
    """Log to standard output; what the application has set up itself is replaced only if one of the two is given.

    :param style: ``text`` or ``json``.
    :param several: lines of several processes meet in one place, so each says whose it is.
    """
    configure_logging(level, handlers=[handler(style, several=several)], force=bool(level or style))


def handler(style: str | None, *, several: bool) -> logging.Handler:
    """What writes such lines; the parameters are those of :func:`configure`."""
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(RunFields())
    handler.setFormatter(_JSON() if style == "json" else _Text(_TEXT_OF_SEVERAL if several else _TEXT))
    return handler


class _Text(logging.Formatter):
    """One line, and below it, indented, what belongs to it: whatever a name or an error contains, it can't pass for a line of its own."""

    def format(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        record.asctime = self.formatTime(record, self.datefmt)
        lines = [printable(self.formatMessage(record))]
        # Not what the record keeps of it, as the base class does: other handlers have it from there, or put it there.
        if record.exc_info:
            lines.append(_indented(self.formatException(record.exc_info)))
        if record.stack_info:
            lines.append(_indented(self.formatStack(record.stack_info)))
        return "\n".join(lines)


def _indented(text: str) -> str:
    # By line feeds alone: what else ends a line is escaped.
    return textwrap.indent("\n".join(map(printable, text.split("\n"))), "  ")


class _JSON(logging.Formatter):
    """One object a line: what all have, and below it what a record has as fields of its own, such as the run that it is about."""

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
