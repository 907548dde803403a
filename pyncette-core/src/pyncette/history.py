"""Converts runs and changes to tasks to entries of the store's history, and back."""

import asyncio
import heapq
import itertools
import json
import logging
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any

from pyncette.clock import from_microseconds, to_microseconds
from pyncette.errors import ConfigurationError, RepositoryError
from pyncette.memo import Memo
from pyncette.runs import Run
from pyncette.store.contract import Key, Repository
from pyncette.store.history import Entry, Position, SupportsHistory
from pyncette.waiting import fault

__all__ = [
    "RecordedChange",
    "RecordedRun",
    "RunPage",
    "as_triggered",
    "entry_of",
    "page_of",
    "remember",
    "text_of_change",
    "text_of_run",
]

logger: logging.Logger = logging.getLogger(__name__)

_LAST = datetime.max.replace(tzinfo=UTC)
#: How many partitions are queried at the same time.
_AT_ONCE = 16
_TOKEN = re.compile(r"(-?[0-9]{1,18}):([A-Za-z0-9-]{1,64})")
#: The prefix of ids of this process, and a counter: so ids of one instant are in the order of creation.
_ORIGIN = secrets.token_hex(8)
_NUMBERS = itertools.count()
#: The maximum length of an entry's text that stores keep.
_MOST_CHARACTERS = 4000
#: How long (seconds) a call that changes something waits for its history entry.
_PATIENCE = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRun(Run):
    """One attempt at an occurrence, as recorded in the history."""

    #: The name of the instance, or of the static task.
    name: str
    #: Whether it was an extra run, rather than one from the schedule.
    triggered: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedChange:
    """A change to a task or an instance, as recorded in the history."""

    #: The name of the instance, or of the static task; empty for a change to several instances or to the template.
    name: str
    #: Aware, UTC, on the store's clock.
    at: datetime
    #: A verb: "pause", "unschedule", ...
    action: str
    #: Who did it, as they call themselves; None if they did not say.
    by: str | None
    #: Further details, such as "note".
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunPage:
    """One page of the history, newest first."""

    runs: Sequence[RecordedRun]
    #: The changes to the task in the same period.
    changes: Sequence[RecordedChange]
    #: Pass this to the next call; None on the last page.
    continuation_token: str | None


def text_of_run(run: Run) -> str:
    """The text of an entry for ``run``."""
    return Memo(run).text()


def as_triggered(text: str) -> str:
    """The ``text`` of a run, marked as an extra run."""
    return f'{text[:-1]},"triggered":true}}'


def text_of_change(action: str, by: str | None, details: Mapping[str, Any]) -> str:
    """The entry for a change. Long texts are cut."""
    known = {name: value for name, value in details.items() if value is not None}
    longest = _MOST_CHARACTERS
    while True:
        cut = {name: value if isinstance(value, int) else plain(str(value)[:longest]) for name, value in known.items()}
        text = json.dumps({"change": [action, None if by is None else plain(by[:longest]), cut]}, ensure_ascii=False)
        if len(text) <= _MOST_CHARACTERS or not longest:
            return text if longest else json.dumps({"change": [action, None, {}]})
        longest //= 2


def plain(text: str) -> str:
    """``text`` without lone surrogates, which can't be stored."""
    return text.encode("utf-8", "backslashreplace").decode()


def entry_of(key: Key, at: datetime, keep: timedelta, text: str) -> Entry:
    """An entry with a new id."""
    expires_at = at + keep if keep < _LAST - at else _LAST
    return Entry(key, Position(at, f"{_ORIGIN}-{next(_NUMBERS):012x}"), expires_at, text)


async def remember(
    repository: Repository, key: Key, at: datetime, keep: timedelta | None, action: str, by: str | None, **details: Any
) -> None:
    """Record a change in the history, on a best-effort basis: the change itself is already done.

    :param key: the row that was changed; without a name, several instances or the whole template.
    :param keep: how long to keep the entry; None: not at all.
    """
    if keep is None or not isinstance(repository, SupportsHistory):
        return
    try:
        async with asyncio.timeout(_PATIENCE):
            await repository.append([entry_of(key, at, keep, text_of_change(action, by, details))])
    except (Exception, asyncio.CancelledError) as error:
        logger.debug("The change %s is missing from the history: %s", action, fault(error))


async def page_of(
    repository: Repository, partitions: Sequence[str], name: str | None, *, limit: int, token: str | None, now: datetime
) -> RunPage:
    """The newest ``limit`` entries of some partitions, or of one name in them, continuing from ``token``.

    Raises ConfigurationError for an invalid token, and RepositoryError if the store keeps no history.
    """
    if not isinstance(repository, SupportsHistory):
        raise RepositoryError(f"{type(repository).__name__} keeps no history; use another store, or look at the log")
    before = None if token is None else _position(token)
    found: list[Sequence[Entry]] = []
    for start in range(0, len(partitions), _AT_ONCE):
        some = partitions[start : start + _AT_ONCE]
        # one more, to find out whether there are more
        found += await asyncio.gather(*(repository.runs(partition, name, limit=limit + 1, before=before) for partition in some))
    merged = heapq.merge(*found, key=lambda entry: entry.position, reverse=True)
    page = list(itertools.islice(merged, limit + 1))
    last = page[limit - 1].position if len(page) > limit else None
    entries = [entry for entry in page[:limit] if entry.expires_at > now]  # expired entries may not have been removed yet
    read = [_read(entry) for entry in entries]
    return RunPage(
        [each for each in read if isinstance(each, RecordedRun)],
        [each for each in read if isinstance(each, RecordedChange)],
        last and f"{to_microseconds(last.at)}:{last.id}",
    )


def _position(token: str) -> Position:
    parts = _TOKEN.fullmatch(token) if isinstance(token, str) else None
    try:
        if parts is not None:
            return Position(from_microseconds(int(parts[1])), parts[2])
    except OverflowError:
        pass
    raise ConfigurationError(f"{str(token)[:100]!r} is not a continuation token of a history; pass the one from the previous page")


def _read(entry: Entry) -> RecordedRun | RecordedChange | None:
    """The content of an entry; None if its kind is unknown."""
    name, text = entry.key.name, entry.text
    try:
        values = json.loads(text)
        if "change" in values:
            action, by, details = values["change"]
            return RecordedChange(name=name, at=entry.position.at, action=str(action), by=by, details=dict(details))
        triggered = values.get("triggered") is True
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    run = Memo.read(text).last_run
    if run is None:
        return None
    return RecordedRun(**{each.name: getattr(run, each.name) for each in fields(run)}, name=name, triggered=triggered)
