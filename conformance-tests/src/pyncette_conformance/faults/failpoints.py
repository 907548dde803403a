"""Faults at named points of a worker: of its calls to its store, of the driver below them, and of its clock.

A fault is written ``SITE=ACTION``, then optionally ``%PERCENT`` (how often; always by default) or ``@N`` (only the N-th time),
then optionally ``:SECONDS``; several with blanks between. It is the same in code (:meth:`Fault.parse`, :meth:`Fault.parse_all`), after
``--fault`` of a worker or of ``python -m pyncette_conformance.faults``, and in the environment of either, as ``PYNCETTE_FAULTS``. Sites are the methods
of the repository for what happens to a call, ``METHOD.before`` and ``METHOD.after`` for what happens around it, ``driver`` and ``clock``::

    settle=applied-then-error%30     of ten settlements three are applied, but the caller is told that they failed
    register.before=stop@1           the process stops itself (SIGSTOP) before its first insert; somebody has to continue it
    claim.after=kill@3               the process dies holding its third claim
    settle=duplicate-late%20:0.5     the call is delivered again half a second later
    driver=error%30                  three of ten statements fail with an error of the store's own driver
    clock=ahead:-30                  the clock is half a minute slow
    clock=step@12.5:2                it is put 2 s forward when the monotonic clock that all processes share says 12.5
"""

import asyncio
import contextlib
import enum
import os
import random
import re
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pyncette.errors import TransientRepositoryError
from pyncette.repository import ClaimResult, Repository, Settlement
from pyncette_conformance.faults.recorder import Wrapper, claim_fields
from pyncette_conformance.faults.runlog import RunLog, What

__all__ = ["VARIABLE", "Action", "Failpoints", "Fault"]

T = TypeVar("T")

#: The environment variable that has faults for all workers.
VARIABLE = "PYNCETTE_FAULTS"

_METHODS = ("register", "unregister", "claim", "settle", "get", "list")


class Action(enum.StrEnum):
    """What goes wrong."""

    # To a call:
    #: It fails before it has any effect.
    ERROR = "error"
    #: It takes effect, but its answer is lost.
    APPLIED_THEN_ERROR = "applied-then-error"
    #: It is delivered twice; the caller gets the first answer.
    DUPLICATE = "duplicate"
    #: The same, with the second delivery some time after the first.
    DUPLICATE_LATE = "duplicate-late"

    # Before or after a call:
    DELAY = "delay"
    STOP = "stop"
    KILL = "kill"

    # To the clock:
    AHEAD = "ahead"
    STEP = "step"


_CLOCK = {Action.AHEAD, Action.STEP}
_AROUND = {Action.DELAY, Action.STOP, Action.KILL}


@dataclass(frozen=True, slots=True)
class Fault:
    """An action at a site."""

    site: str
    action: Action
    #: Between 0 and 1.
    rate: float = 1.0
    #: Only this time that the site is passed, counted from 1; 0: any time. Of a step of the clock: when, in seconds.
    nth: float = 0
    seconds: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "Fault":
        """Read the notation that the module's docstring describes."""
        match = re.fullmatch(r"([a-z]+)(\.before|\.after)?=([a-z-]+)(?:%([\d.]+)|@([\d.]+))?(?::(-?[\d.]+))?", text)
        if match is None or match[3] not in set(Action):
            raise ValueError(f"{text!r} is not a fault; write for example 'settle=applied-then-error%30' or 'claim.after=stop@1'")
        method, around, action, percent, nth, seconds = match.groups()
        fault = cls(
            site=method + (around or ""),
            action=Action(action),
            rate=float(percent or 100) / 100,
            nth=float(nth or 0),
            seconds=float(seconds or 0),
        )
        if fault.action in _CLOCK or fault.site in ("clock", "driver"):
            fits = fault.action in _CLOCK if fault.site == "clock" else (fault.site, fault.action) == ("driver", Action.ERROR)
        else:
            fits = method in _METHODS and (around is not None) == (fault.action in _AROUND) and fault.seconds >= 0
        if not fits:
            raise ValueError(f"{text!r}: {action} can't be at {fault.site!r}")
        return fault

    @classmethod
    def parse_all(cls, text: str) -> "list[Fault]":
        """Read several, with blanks between."""
        return [cls.parse(word) for word in text.split()]


class Failpoints(Wrapper):
    """A repository with ``faults`` in the way to it."""

    def __init__(self, inner: Repository, faults: Sequence[Fault], log: RunLog, seed: int) -> None:
        super().__init__(inner)
        self._faults = faults
        self._log = log
        self._random = random.Random(seed)
        self._passed: Counter[str] = Counter()
        self._late: set[asyncio.Task[None]] = set()

    async def _call(self, method: str, call: Callable[[], Awaitable[T]], settlements: Sequence[Settlement] = ()) -> T:
        await self._around(f"{method}.before")
        fault = self._draw(method)
        if fault is not None:
            self._record(fault, settlements)
            if fault.action is Action.ERROR:
                raise TransientRepositoryError(f"{method}() failed on purpose, without effect")
        result = await call()
        if fault is not None:
            if fault.action is Action.APPLIED_THEN_ERROR:
                self._record_lost(fault, result)
                raise TransientRepositoryError(f"{method}() failed on purpose, after taking effect")
            if fault.action is Action.DUPLICATE:
                await self._again(fault, call)
            else:
                self._later(fault, call)
        await self._around(f"{method}.after")
        return result

    async def aclose(self) -> None:
        """Deliver nothing more."""
        for task in self._late:
            task.cancel()
        await asyncio.gather(*self._late, return_exceptions=True)

    def _draw(self, site: str) -> Fault | None:
        self._passed[site] += 1
        for fault in self._faults:
            if fault.site == site and fault.nth in (0, self._passed[site]) and self._random.random() < fault.rate:
                return fault
        return None

    async def _around(self, site: str) -> None:
        fault = self._draw(site)
        if fault is None:
            return
        self._record(fault)
        if fault.action is Action.DELAY:
            await asyncio.sleep(fault.seconds)
        else:
            os.kill(os.getpid(), signal.SIGSTOP if fault.action is Action.STOP else signal.SIGKILL)

    def _record(self, fault: Fault, settlements: Sequence[Settlement] = ()) -> None:
        if settlements:
            self._log.write_all(
                self._log.event(
                    What.FAULT, kind=fault.site, outcome=fault.action, note=type(each).__name__.lower(), **claim_fields(each.claim)
                )
                for each in settlements
            )
        else:
            self._log.write(What.FAULT, kind=fault.site, outcome=fault.action)

    def _record_lost(self, fault: Fault, answer: object) -> None:
        """Claims that were granted, and that their worker never hears of."""
        if isinstance(answer, ClaimResult):
            self._log.write_all(
                self._log.event(What.FAULT, kind="claim", outcome=fault.action, **claim_fields(claim)) for claim in answer.claims
            )

    async def _again(self, fault: Fault, call: Callable[[], Awaitable[T]]) -> None:
        with contextlib.suppress(Exception):  # the caller receives the first answer, and expects no other
            self._record_lost(fault, await call())

    def _later(self, fault: Fault, call: Callable[[], Awaitable[T]]) -> None:
        async def deliver() -> None:
            await asyncio.sleep(fault.seconds)
            await self._again(fault, call)

        task = asyncio.create_task(deliver())
        self._late.add(task)
        task.add_done_callback(self._late.discard)
