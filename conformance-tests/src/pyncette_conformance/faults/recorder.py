"""A repository that logs what is asked of another one, and what it answers."""

import itertools
import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from pyncette.clock import to_microseconds
from pyncette.repository import (
    Claim,
    ClaimResult,
    Extend,
    Key,
    Outcome,
    Page,
    Registration,
    Repository,
    Row,
    Settlement,
)
from pyncette_conformance.faults.plan import GENERATION
from pyncette_conformance.faults.runlog import Event, RunLog, What, monotonic

__all__ = ["Recorder", "Wrapper", "claim_fields", "generation_of"]

T = TypeVar("T")

#: What a store may offer beyond the contract; a wrapper offers what the wrapped repository does.
_OPTIONAL = ("server_time", "stats", "partitions", "pause", "resume")


class Wrapper(Repository):
    """Another repository, with :meth:`_call` around every call of the contract's."""

    def __init__(self, inner: Repository) -> None:
        self._inner = inner
        self.shared: bool = inner.shared
        for name in _OPTIONAL:
            if hasattr(inner, name):
                setattr(self, name, getattr(inner, name))

    async def _call(self, method: str, call: Callable[[], Awaitable[T]], settlements: Sequence[Settlement] = ()) -> T:
        raise NotImplementedError

    async def register(self, now: datetime, registrations: Sequence[Registration], *, force: bool = False) -> None:
        await self._call("register", lambda: self._inner.register(now, registrations, force=force))

    async def unregister(self, now: datetime, keys: Sequence[Key]) -> Sequence[bool]:
        return await self._call("unregister", lambda: self._inner.unregister(now, keys))

    async def claim(
        self, now: datetime, partition: str, *, lease_duration: timedelta, limit: int, names: Sequence[str] | None = None
    ) -> ClaimResult:
        def call() -> Awaitable[ClaimResult]:
            return self._inner.claim(now, partition, lease_duration=lease_duration, limit=limit, names=names)

        return await self._call("claim", call)

    async def settle(self, now: datetime, settlements: Sequence[Settlement]) -> Sequence[Outcome]:
        return await self._call("settle", lambda: self._inner.settle(now, settlements), settlements)

    async def get(self, keys: Sequence[Key]) -> Sequence[Row | None]:
        return await self._call("get", lambda: self._inner.get(keys))

    async def list(self, partition: str, *, limit: int, token: str | None = None) -> Page:
        return await self._call("list", lambda: self._inner.list(partition, limit=limit, token=token))


class Recorder(Wrapper):
    """Logs registrations, claims, settlements and errors. It stands next to the store, below whatever injects faults."""

    def __init__(self, inner: Repository, log: RunLog) -> None:
        super().__init__(inner)
        self._log = log
        self._calls = itertools.count(1)
        self._up = False

    async def _call(self, method: str, call: Callable[[], Awaitable[T]], settlements: Sequence[Settlement] = ()) -> T:
        try:
            return await call()
        except Exception as error:
            self._log.write(What.ERROR, kind=method, note=f"{type(error).__name__}: {error}"[:300])
            raise

    async def register(self, now: datetime, registrations: Sequence[Registration], *, force: bool = False) -> None:
        self._log.write_all(
            self._log.event(
                What.REGISTER,
                name=each.key.name,
                generation=generation_of(each.spec),
                now=to_microseconds(now),
                at=to_microseconds(each.target.occurrence),
                kind=each.schedule,
            )
            for each in registrations
        )
        await super().register(now, registrations, force=force)

    async def claim(
        self, now: datetime, partition: str, *, lease_duration: timedelta, limit: int, names: Sequence[str] | None = None
    ) -> ClaimResult:
        sent = monotonic()
        result = await super().claim(now, partition, lease_duration=lease_duration, limit=limit, names=names)
        begins, ends = to_microseconds(now), to_microseconds(now + lease_duration)
        events = [
            self._log.event(What.CLAIMED, sent=sent, now=begins, until=ends, **claim_fields(claim)) for claim in result.claims
        ]
        if not self._up:
            self._up = True
            events.append(self._log.event(What.UP))
        self._log.write_all(events)
        return result

    async def settle(self, now: datetime, settlements: Sequence[Settlement]) -> Sequence[Outcome]:
        call = next(self._calls)
        sent, at = monotonic(), to_microseconds(now)
        self._log.write_all(self._settlement(What.SETTLING, each, call, sent, at) for each in settlements)
        outcomes: Sequence[str] = ["error"] * len(settlements)
        try:
            answers = await super().settle(now, settlements)
            outcomes = [answer.value for answer in answers]
            return answers
        finally:
            self._log.write_all(
                self._settlement(What.SETTLED, each, call, sent, at, outcome=outcome)
                for each, outcome in zip(settlements, outcomes, strict=True)
            )

    def _settlement(self, what: What, settlement: Settlement, call: int, sent: float, now: int, outcome: str = "") -> Event:
        kind = type(settlement).__name__.lower()
        until = to_microseconds(settlement.until) if isinstance(settlement, Extend) else 0
        claim = claim_fields(settlement.claim)
        return self._log.event(what, kind=kind, call=call, sent=sent, now=now, until=until, outcome=outcome, **claim)


def claim_fields(claim: Claim) -> dict[str, Any]:
    """What identifies a claim and its occurrence in the log."""
    return {
        "name": claim.key.name,
        "generation": generation_of(claim.spec),
        "at": to_microseconds(claim.occurrence),
        "attempt": claim.attempt,
        "token": claim.epoch,
    }


def generation_of(spec: str) -> int:
    """Which schedule of its name this is; 0 for static tasks and for what can't be read."""
    try:
        return int(json.loads(spec)[GENERATION])
    except (ValueError, TypeError, KeyError):
        return 0
