"""What the script answers, in Python."""

import json
from typing import Any

__all__ = ["is_text", "loads"]


def loads(reply: bytes) -> Any:
    """The answer of the script. A text in it that is no UTF-8 becomes bytes: it was stored by somebody else."""
    try:
        return json.loads(reply)
    except UnicodeDecodeError:
        return _with_bytes(json.loads(reply.decode(errors="surrogateescape")))


def _with_bytes(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_bytes(element) for element in value]
    raw = value.encode(errors="surrogateescape") if isinstance(value, str) else b""
    return value if is_text(raw) else raw


def is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
