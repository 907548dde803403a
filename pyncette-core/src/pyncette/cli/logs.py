"""Where the log of ``pyncette run`` goes, and what a line of it looks like."""

import json
import logging
import sys
from datetime import UTC, datetime

__all__ = ["configure"]

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_TEXT_OF_SEVERAL = "%(asctime)s %(levelname)s [%(process)d] %(name)s: %(message)s"


def configure(level: str | None, style: str | None, *, several: bool) -> None:
    """Log to standard output; what the application has set up itself is replaced only if one of the two is given.

    :param style: ``text`` or ``json``.
    :param several: lines of several processes meet in one place, so each says whose it is.
    """
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_JSON() if style == "json" else logging.Formatter(_TEXT_OF_SEVERAL if several else _TEXT))
    logging.basicConfig(handlers=[handler], level=(level or "info").upper(), force=bool(level or style))


class _JSON(logging.Formatter):
    """One object a line."""

    def format(self, record: logging.LogRecord) -> str:
        values = {
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
        return json.dumps(values)
