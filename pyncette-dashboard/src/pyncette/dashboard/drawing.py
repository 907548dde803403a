"""Charts as SVG: upcoming and past runs. The style sheet has the colours.

Horizontal positions are percentages of the width, and vertical ones multiples of the text height: so a chart is as wide as its page, and text
never shrinks.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from markupsafe import Markup

from pyncette import RecordedRun, RunOutcome, Task
from pyncette.dashboard.words import visible

__all__ = ["coming", "past"]

_GOOD = (RunOutcome.SUCCEEDED, RunOutcome.STARTED)
_LANES = 10
#: The height of the bars, and of a lane, whose upper part contains the name.
_BARS, _LANE, _NAME = 7.0, 2.9, 1.1
#: The margin on both sides of a lane, in percent.
_EDGE = 1.0


def coming(hours: Sequence[int], now: datetime) -> Markup:
    """A chart of the number of runs in each of the coming hours."""
    top, step = max(*hours, 1), 100 / len(hours)
    parts = []
    for number, count in enumerate(hours):
        tall = max(count / top * _BARS, 0.25 if count else 0.1)
        at = now + timedelta(hours=number)
        parts.append(
            Markup(
                '<rect class="{}" x="{:.2f}%" y="{:.2f}em" width="{:.2f}%" height="{:.2f}em" rx="2"><title>{}: {} due</title></rect>'
            ).format(
                "bar" if count else "bar empty",
                (number + 0.07) * step,
                0.5 + _BARS - tall,
                0.86 * step,
                tall,
                f"{at:%H:%M} UTC on",
                count,
            )
        )
        if number % 6 == 0:
            parts.append(Markup('<text x="{:.2f}%" y="{}em">+{} h</text>').format((number + 0.07) * step, _BARS + 1.8, number))
    return _picture("Runs in the coming hours", _BARS + 2.3, parts)


def past(runs: Sequence[tuple[Task, RecordedRun]], now: datetime) -> Markup:
    """A chart of the last runs, with a lane for each task."""
    lanes: dict[str, list[RecordedRun]] = {}
    for task, run in runs:
        if task.name in lanes or len(lanes) < _LANES:
            lanes.setdefault(task.name, []).append(run)
    if not lanes:
        return Markup()
    first = min(run.ended or run.scheduled_at for found in lanes.values() for run in found)
    span = max((now - first).total_seconds(), 60.0)
    parts = []
    for number, (name, found) in enumerate(lanes.items()):
        y = number * _LANE + _NAME
        shown = visible(name)
        parts.append(
            Markup('<text x="0" y="{:.2f}em">{}</text><line x1="0" y1="{:.2f}em" x2="100%" y2="{:.2f}em"></line>').format(
                y, shown if len(shown) <= 40 else f"{shown[:39]}…", y + 0.9, y + 0.9
            )
        )
        for run in found:
            ago = (now - (run.ended or run.scheduled_at)).total_seconds() / span
            parts.append(
                Markup('<circle class="{}" cx="{:.2f}%" cy="{:.2f}em" r=".4em"><title>{} {}: {}</title></circle>').format(
                    "good" if run.outcome in _GOOD else "bad",
                    100 - _EDGE - (100 - 2 * _EDGE) * max(ago, 0.0),
                    y + 0.9,
                    visible(run.name),
                    run.scheduled_at,
                    run.outcome,
                )
            )
    bottom = len(lanes) * _LANE + _NAME
    parts.append(Markup('<text x="0" y="{:.2f}em">{} UTC</text>').format(bottom, f"{first:%m-%d %H:%M}"))
    parts.append(Markup('<text class="end" x="100%" y="{:.2f}em">now</text>').format(bottom))
    return _picture("The last runs", bottom + 0.5, parts)


def _picture(label: str, height: float, parts: Iterable[Markup]) -> Markup:
    return Markup('<svg class="timeline" height="{:.2f}em" role="img" aria-label="{}">{}</svg>').format(
        height, label, Markup().join(parts)
    )
