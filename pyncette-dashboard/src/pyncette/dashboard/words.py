"""Formats values for people. Names and errors may be hostile, so characters that hide or reverse text are shown as escapes."""

import unicodedata
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

from markupsafe import Markup

from pyncette import ScheduledTask
from pyncette.errors import ScheduleError

__all__ = ["ago", "duration", "instant", "link", "name", "occurrences", "schedule_text", "visible"]

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def visible(text: object) -> str:
    """``text`` with invisible characters escaped."""
    return "".join(
        f"\\u{{{ord(each):x}}}" if unicodedata.category(each) in _HIDDEN and each != "\n" else each for each in str(text)
    )


def name(text: object) -> Markup:
    """A name, isolated from the direction of the surrounding text."""
    return Markup("<bdi>{}</bdi>").format(visible(text))


def duration(length: timedelta | None) -> str:
    if length is None:
        return ""
    seconds = abs(length.total_seconds())
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}" if seconds % size < size / 20 else f"{seconds / size:.1f} {unit}"
    raise AssertionError


def ago(at: datetime, now: datetime) -> str:
    return f"in {duration(at - now)}" if at > now else f"{duration(now - at)} ago"


def instant(at: datetime | None, now: datetime | None = None, zone: str = "") -> Markup:
    """A time, which the script converts to the zone that the viewer has chosen; without JavaScript it is in UTC."""
    if at is None:
        return Markup('<span class="none">&ndash;</span>')
    at = at.astimezone(UTC)
    title = "" if now is None else ago(at, now)
    shown = Markup('<time datetime="{}" data-zone="{}" title="{}">{} UTC</time>').format(
        at.isoformat(), zone, title, f"{at:%Y-%m-%d %H:%M:%S}"
    )
    return shown + (Markup(' <small class="ago">{}</small>').format(title) if title else Markup())


def schedule_text(found: ScheduledTask) -> str:
    """The stored schedule, for a column."""
    return visible(found.row.schedule)


def occurrences(found: ScheduledTask, count: int = 10) -> list[datetime]:
    """The next times of a task, from the current one on."""
    times: list[datetime] = []
    try:
        schedule, at = found.schedule, found.scheduled_at
        while len(times) < count:
            times.append(at)
            following = schedule.next(at)
            if following is None:
                break
            at = following
    except (ScheduleError, OverflowError, ValueError):
        pass
    return times


def link(page: str, **values: object) -> str:
    """A relative link to another page: wherever the dashboard is mounted, all pages are in the same folder."""
    query = urlencode({name: str(value) for name, value in values.items() if value not in (None, "")}, errors="surrogatepass")
    return f"{page}?{query}" if query else page
