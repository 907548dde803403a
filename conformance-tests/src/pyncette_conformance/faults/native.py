"""The errors of a store's driver, raised below the repository, to test how it handles them."""

import itertools
import random
from collections.abc import Callable
from typing import Any

__all__ = ["INJECTORS", "inject"]


def inject(scheme: str, rate: float, seed: int) -> None:
    """Have a share ``rate`` of the statements that this process sends to stores of ``scheme`` fail."""
    try:
        injector = INJECTORS[scheme]
    except KeyError:
        raise ValueError(f"No native errors are known for {scheme}://; known are: {', '.join(sorted(INJECTORS))}") from None
    injector(rate, random.Random(seed))


def _sqlite(rate: float, chance: random.Random) -> None:
    import sqlite3

    def error(code: int, message: str) -> sqlite3.OperationalError:
        raised = sqlite3.OperationalError(message)
        raised.sqlite_errorcode = code  # SQLite itself sets it on real ones
        return raised

    commits = itertools.count()

    def failing(factory: Any) -> Any:
        class Failing(factory):  # type: ignore[misc]
            def execute(self, sql: Any, *parameters: Any) -> Any:
                # Once a transaction has begun to write, no other connection is in its way. What is not a statement only makes some.
                if isinstance(sql, str) and (not self.in_transaction or sql == "COMMIT") and chance.random() < rate:
                    raise error(sqlite3.SQLITE_BUSY, "database is locked")
                cursor = super().execute(sql, *parameters)
                # Rarer, since the caller has to start over: committed, and yet an error. Not at the start, which it is meant to end.
                if sql == "COMMIT" and next(commits) > 10 and chance.random() < rate / 5:
                    raise error(sqlite3.SQLITE_IOERR, "disk I/O error")
                return cursor

        return Failing

    connect: Any = sqlite3.connect

    def connect_failing(*arguments: Any, factory: Any = sqlite3.Connection, **options: Any) -> Any:
        return connect(*arguments, factory=failing(factory), **options)

    sqlite3.connect = connect_failing


#: By URL scheme: ``(rate, random numbers)``. A backend of its own distribution adds its own, through a worker's ``--plugin``.
INJECTORS: dict[str, Callable[[float, random.Random], None]] = {"sqlite": _sqlite}
