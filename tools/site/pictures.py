"""Draw the diagrams of the documentation as SVG, from the text below.

Run it:      python tools/site/pictures.py docs/images
You need:    nothing but Python
You see:     A line for each picture. They are drawn in the middle of light and dark, so that they can be read on either.
"""

import html
import sys
from collections.abc import Sequence
from pathlib import Path

#: The life of a row: states, and what leads from one to another. (column, row) of each state.
STATES = {"waiting": (0, 0), "held": (2, 0), "paused": (0, 1), "failed": (2, 1), "removed": (4, 0)}
MOVES = [
    ("waiting", "held", "claim", "a worker takes it for a lease"),
    ("held", "waiting", "commit, release", "next occurrence, or a retry"),
    ("held", "removed", "commit", "no next occurrence"),
    ("held", "failed", "fail", "given up"),
    ("failed", "waiting", "retry", ""),
    ("waiting", "paused", "pause", ""),
    ("paused", "waiting", "resume", ""),
    ("failed", "removed", "unschedule", "from any state"),
]
#: Two workers that share a store: who does what, in seconds.
SHARED: dict[str, list[tuple[float, float, str]]] = {
    "worker A": [(0, 3, "run 1"), (4, 6, "run 3")],
    "store": [(0, 0.4, "claim"), (1, 1.4, "claim"), (3, 3.4, "commit"), (4, 4.4, "claim"), (5, 5.4, "commit"), (6, 6.4, "commit")],
    "worker B": [(1, 5, "run 2")],
}
#: What a lease is for: a worker dies, and another continues once the lease has expired.
LEASE: dict[str, list[tuple[float, float, str]]] = {
    "worker A": [(0, 2.2, "run, attempt 1"), (2.2, 2.5, "✕")],
    "lease": [(0, 4, "held by A"), (4, 6.6, "held by B")],
    "worker B": [(4, 6.4, "run, attempt 2"), (6.4, 6.8, "✓")],
}
_INK, _LINE, _FILL = "#7a869a", "#4c8bf5", "#4c8bf522"
_FONT = 'font-family="Helvetica, Arial, sans-serif" font-size="13"'


def _text(x: float, y: float, text: str, anchor: str = "middle", size: int = 13) -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}" fill="{_INK}">{html.escape(text)}</text>'


def _box(x: float, y: float, width: float, height: float, text: str) -> str:
    box = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" fill="{_FILL}" stroke="{_LINE}" stroke-width="1.5"/>'
    return box + _text(x + width / 2, y + height / 2 + 4, text)


def _svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    arrow = (
        f'<defs><marker id="a" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto-start-reverse">'
        f'<path d="M0 0L10 5L0 10z" fill="{_INK}"/></marker></defs>'
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" {_FONT}>'
    return "\n".join([head, f"<title>{html.escape(title)}</title>", arrow, *parts, "</svg>", ""])


def life_of_a_row() -> str:
    """States as boxes, moves as labelled arrows; the two ways between a pair of states side by side."""
    wide, high, left, top, step, drop = 110, 40, 20, 50, 165, 130
    at = {state: (left + column * step, top + row * drop) for state, (column, row) in STATES.items()}
    parts = [_box(x, y, wide, high, state) for state, (x, y) in at.items()]
    pairs = {(source, target) for source, target, _, _ in MOVES}
    for source, target, label, note in MOVES:
        (x1, y1), (x2, y2) = at[source], at[target]
        apart = 9 if (target, source) in pairs else 0
        if y1 == y2:
            y = y1 + high / 2 + (apart if x2 < x1 else -apart)
            start, end = (x1 + wide, x2) if x1 < x2 else (x1, x2 + wide)
            parts.append(f'<path d="M{start:g} {y:g}H{end:g}" stroke="{_INK}" fill="none" marker-end="url(#a)"/>')
            middle, below = (start + end) / 2, x2 < x1
            parts.append(_text(middle, y + (17 if below else -20), label))
            if note:
                parts.append(_text(middle, y + (31 if below else -6), note, size=10))
        elif x1 == x2:
            x = x1 + wide / 2 + (apart if y2 > y1 else -apart) * 2
            start, end = (y1 + high, y2) if y1 < y2 else (y1, y2 + high)
            parts.append(f'<path d="M{x:g} {start:g}V{end:g}" stroke="{_INK}" fill="none" marker-end="url(#a)"/>')
            parts.append(
                _text(
                    x + (6 if y2 > y1 else -6),
                    (start + end) / 2 + 14,
                    f"{label}{', ' + note if note else ''}",
                    "start" if y2 > y1 else "end",
                )
            )
        else:
            start, end, anchor = (x1 + wide, x2, "start") if x1 < x2 else (x1, x2 + wide, "end")
            parts.append(
                f'<path d="M{start:g} {y1 + 8:g}L{end:g} {y2 + high + 2:g}" stroke="{_INK}" fill="none" marker-end="url(#a)"/>'
            )
            x, y = (start + end) / 2 + (12 if x1 < x2 else -12), (y1 + y2 + high) / 2 + 18
            parts.append(_text(x, y, label, anchor))
            if note:
                parts.append(_text(x, y + 14, note, anchor, size=10))
    return _svg(left * 2 + 4 * step + wide, top + drop + high + 24, "The life of a row", parts)


def lanes(title: str, rows: dict[str, list[tuple[float, float, str]]], end: float) -> str:
    """What happens in each lane, along the time."""
    left, top, scale, high = 90, 20, 90, 44
    parts = []
    for number, (name, spans) in enumerate(rows.items()):
        y = top + number * (high + 14)
        parts.append(_text(left - 12, y + high / 2 + 4, name, "end"))
        free = [0.0, *(at for start, stop, _ in spans for at in (start, stop)), end]
        for begin, until in zip(free[::2], free[1::2], strict=True):
            parts.append(
                f'<path d="M{left + begin * scale:g} {y + high / 2:g}H{left + until * scale:g}" stroke="{_INK}" stroke-dasharray="2 4"/>'
            )
        for start, stop, text in spans:
            narrow = (stop - start) * scale < 60
            parts.append(_box(left + start * scale, y + 6, (stop - start) * scale, high - 12, "" if narrow else text))
            if narrow:
                parts.append(_text(left + (start + stop) / 2 * scale, y + 2 if len(text) > 1 else y + high / 2 + 4, text, size=10))
    bottom = top + len(rows) * (high + 14) + 6
    parts.append(f'<path d="M{left} {bottom}H{left + end * scale:g}" stroke="{_INK}" marker-end="url(#a)"/>')
    parts.append(_text(left + end * scale, bottom + 16, "time", "end", 11))
    return _svg(int(left + end * scale + 20), int(bottom + 26), title, parts)


def main() -> None:
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for name, picture in {
        "life-of-a-row": life_of_a_row(),
        "two-workers": lanes("Two workers share a store", SHARED, 7),
        "lease": lanes("A worker dies, and another takes over when the lease expires", LEASE, 7),
    }.items():
        (directory / f"{name}.svg").write_text(picture, encoding="utf-8")
        print(directory / f"{name}.svg")


if __name__ == "__main__":
    main()
