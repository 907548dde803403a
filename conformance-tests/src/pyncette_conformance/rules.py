"""The rules of a row's life, each of which can be replaced."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from pyncette.repository import Claim, Outcome, Row, Settlement
from pyncette.store import lifecycle

__all__ = ["Rules"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The functions under test: those of :mod:`pyncette.lifecycle`, or mutants of them."""

    register: Callable[..., Row] = lifecycle.register
    claim: Callable[[Row, datetime, timedelta, str], tuple[Row, Claim] | None] = lifecycle.claim
    settle: Callable[[Row | None, datetime, Settlement], tuple[Row | None, Outcome]] = lifecycle.settle
    pause: Callable[[Row, str | None], Row] = lifecycle.pause
    resume: Callable[[Row, str | None], Row] = lifecycle.resume
