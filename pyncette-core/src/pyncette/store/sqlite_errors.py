"""Classifies SQLite's errors: retry at once, transient, or permanent."""

import sqlite3

from pyncette.errors import RepositoryError, StoreMissingError, TransientRepositoryError

__all__ = ["is_busy", "is_no_text", "translated"]

#: Another connection holds a lock for a moment. These errors are retried until the timeout.
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
#: The call is correct, and all calls fail until somebody solves the problem, so they should be repeated.
_TRANSIENT = {
    sqlite3.SQLITE_FULL: "is full; free some space on its disk",
    sqlite3.SQLITE_IOERR: "can't be read or written; check its disk",
}
_PERMANENT = {
    sqlite3.SQLITE_CANTOPEN: "can't be opened; check that its directory exists, that it is a file, and the permissions of both",
    sqlite3.SQLITE_READONLY: "can't be written to; check the permissions of the file and of its directory",
    sqlite3.SQLITE_NOTADB: "is not a SQLite database; choose another file",
    sqlite3.SQLITE_CORRUPT: "is damaged; restore it from a backup",
}


def is_busy(error: sqlite3.OperationalError) -> bool:
    """Whether the same statement will soon succeed."""
    return _code(error) in _BUSY


def is_no_text(error: sqlite3.OperationalError) -> bool:
    """Whether Python refused a value of the result, because a text in SQLite may not be valid UTF-8."""
    return not _code(error)


def translated(error: Exception, where: str, table: str) -> RepositoryError:
    """Pyncette's error for an error of a call on ``table`` in the database ``where``."""
    what = f"The SQLite database {where}"
    code = _code(error)
    if code in _TRANSIENT:
        return TransientRepositoryError(f"{what} {_TRANSIENT[code]} ({error})")
    if code in _PERMANENT:
        return RepositoryError(f"{what} {_PERMANENT[code]} ({error})")
    if code == sqlite3.SQLITE_ERROR:
        if "no such table" in str(error):
            if str(error).endswith(f"{table}_history"):
                table = f"{table}_history"
            return StoreMissingError(f"There is no table {table!r} in {where} ({error}); let the application create it")
        return RepositoryError(
            f"The table {table!r} in {where} is not one of Pyncette's ({error}); choose another sqlite_table_name"
        )
    return RepositoryError(f"{what} refused ({type(error).__name__}: {error})")


def _code(error: Exception) -> int:
    """SQLite's primary result code; 0 for errors from elsewhere."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
