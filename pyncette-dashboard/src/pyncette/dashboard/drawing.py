"""Pictures, drawn as SVG: what comes, and what has been. Colours are the style sheet's."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from markupsafe import Markup

from pyncette import RecordedRun, RunOutcome, Task
from pyncette.dashboard.words import visible

__all__ = ["coming", "past"]

_WIDTH = 960
_GOOD = (RunOutcome.SUCCEEDED, RunOutcome.STARTED)
_LANES = 10


def coming(hours: Sequence[int], now: datetime) -> Markup:
    """How many runs each of the coming hours has."""
    height, top = 90, max(*hours, 1)
    step = _WIDTH / len(hours)
    parts = []
    for number, count in enumerate(hours):
        tall = max(round(count / top * height), 3 if count else 1)
        x = round(number * step)
        at = now + timedelta(hours=number)
        parts.append(
            Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}" rx="2"><title>{}: {} due</title></rect>').format(
                "bar" if count else "bar empty", x + 2, height + 10 - tall, round(step) - 4, tall, f"{at:%H:%M} UTC on", count
            )
        )
        if number % 6 == 0:
            parts.append(Markup('<text x="{}" y="{}">+{} h</text>').format(x + 2, height + 28, number))
    return Markup('<svg class="timeline" viewBox="0 0 {} {}" role="img" aria-label="Runs in the coming hours">{}</svg>').format(
        _WIDTH, height + 34, Markup().join(parts)
    )


def past(runs: Sequence[tuple[Task, RecordedRun]], now: datetime) -> Markup:
    """The last runs, a lane for each task."""
    lanes: dict[str, list[RecordedRun]] = {}
    for task, run in runs:
        if task.name in lanes or len(lanes) < _LANES:
            lanes.setdefault(task.name, []).append(run)
    if not lanes:
        return Markup()
    first = min(run.ended or run.scheduled_at for found in lanes.values() for run in found)
    span = max((now - first).total_seconds(), 60.0)
    label, lane = 190, 26
    width = _WIDTH - label - 14
    parts = []
    for number, (name, found) in enumerate(lanes.items()):
        y = number * lane + 16
        shown = visible(name)
        parts.append(
            Markup('<text x="0" y="{}">{}</text><line x1="{}" y1="{}" x2="{}" y2="{}"></line>').format(
                y + 4, shown if len(shown) <= 24 else f"{shown[:23]}…", label, y, _WIDTH, y
            )
        )
        for run in found:
            x = label + 7 + width * (1 - (now - (run.ended or run.scheduled_at)).total_seconds() / span)
            parts.append(
                Markup('<circle class="{}" cx="{:.0f}" cy="{}" r="5"><title>{} {}: {}</title></circle>').format(
                    "good" if run.outcome in _GOOD else "bad",
                    min(x, _WIDTH - 7),
                    y,
                    visible(run.name),
                    run.scheduled_at,
                    run.outcome,
                )
            )
    bottom = len(lanes) * lane + 20
    parts.append(Markup('<text x="{}" y="{}">{} UTC</text>').format(label, bottom, f"{first:%m-%d %H:%M}"))
    parts.append(Markup('<text class="end" x="{}" y="{}">now</text>').format(_WIDTH, bottom))
    return Markup('<svg class="timeline" viewBox="0 0 {} {}" role="img" aria-label="The last runs">{}</svg>').format(
        _WIDTH, bottom + 8, Markup().join(parts)
    )
