"""Claims: a check without locks and, if something is due, a SELECT that skips locked rows, and the writes."""

import asyncio
import random
from collections.abc import Sequence
from datetime import datetime, timedelta

from pyncette import lifecycle
from pyncette.clock import to_microseconds
from pyncette.errors import RepositoryError
from pyncette.looks import Looks
from pyncette.mysql import statements
from pyncette.mysql.batches import parts
from pyncette.mysql.statements import due_row_of, instant, is_time, seconds_of
from pyncette.mysql.transactions import BEGIN, COMMIT, Run, Statement, Transactions, exactly
from pyncette.repository import ClaimResult, State

__all__ = ["MySQLClaims"]

#: How often a claim retries for due rows that were locked.
_LOOKS_AGAIN = 2


class MySQLClaims:
    """How a repository of MySQL claims rows."""

    _transactions: Transactions
    _looks: Looks

    async def claim(
        self, now: datetime, partition: str, *, lease_duration: timedelta, limit: int, names: Sequence[str] | None = None
    ) -> ClaimResult:
        lease = lifecycle.new_lease()
        result = await self._claim(now, partition, lease_duration, lease, limit, names)
        for _ in range(_LOOKS_AGAIN):
            left = limit - len(result.claims) - len(result.unreadable)
            if result.next_ready_at is None or result.next_ready_at > now or left < 1:
                break
            # A due row that was skipped is locked: by another claim, or for a moment by a scan of neighbouring rows.
            await asyncio.sleep(random.uniform(0, 0.002))
            try:
                more = await self._claim(now, partition, lease_duration, lease, left, names)
            except RepositoryError:
                break  # don't lose the rows already claimed
            unreadable = [*result.unreadable, *more.unreadable]
            result = ClaimResult([*result.claims, *more.claims], more.next_ready_at, more.missing, unreadable)
        return result

    async def _claim(
        self, now: datetime, partition: str, lease_duration: timedelta, lease: str, limit: int, names: Sequence[str] | None
    ) -> ClaimResult:
        at = to_microseconds(now)
        until = to_microseconds(lifecycle.lease_end(now, lease_duration))
        peek, take, following = statements.CLAIMS if names is None else statements.claims_among(len(names))

        async def claim(run: Run) -> ClaimResult:
            look = (self._looks if names is None else Looks()).begin(partition, now)
            since = statements.EVER if look.since is None else to_microseconds(look.since)
            among, ahead = ([partition, since], [to_microseconds(look.until)]) if names is None else ([partition, *names], [])
            # an idle poll ends here, without any locks
            [seen] = await run(Statement(peek, [*among, *ahead])) if names is None or names else [[]]
            took = seen[0][1] / 1e6 if names is None else 0
            known = {name.decode() for _, name in seen} if names is not None else set()
            missing = [name for name in names or () if name not in known]
            ready = sorted(ready_at for ready_at, _ in seen if is_time(ready_at))
            if not ready or ready[0] > at:
                return ClaimResult([], look.end(instant(ready[0] if ready else None), took), missing)
            _, found = await run(BEGIN, Statement(take, [*among, at, limit]))
            took = seconds_of(found[0]) if found else took
            rows = [due_row_of(partition, values) for values in found]
            claims = [taken[1] for row in rows if (taken := lifecycle.claim(row, now, lease_duration, lease)) is not None]
            unreadable = [lifecycle.put_off(row, now, lease_duration) for row in rows if row.state is State.UNREADABLE]
            writes: list[Statement] = []
            for part in parts([claim.key.name for claim in claims], len, self._transactions.largest):
                sql = statements.CLAIM.replace("{names}", statements.places(len(part)))
                writes += [Statement(sql, [lease, until, until, at, partition, *part]), exactly(len(part))]
            put_off = [name.hex() for (name, *_), row in zip(found, rows, strict=True) if row.state is State.UNREADABLE]
            some = ", ".join(["UNHEX(%s)"] * len(put_off))
            if put_off:
                writes.append(Statement(statements.PUT_OFF.replace("{some}", some), [until, partition, *put_off]))
            but = following.replace("{but}", f" AND name NOT IN ({some})" if put_off else "")
            *_, rest, _ = await run(*writes, Statement(but, [*among, *ahead, lease, *put_off]), COMMIT)
            return ClaimResult(claims, look.end(instant(rest[0][0] if rest else None), took), missing, unreadable)

        return await self._transactions.run(claim, urgent=True)
