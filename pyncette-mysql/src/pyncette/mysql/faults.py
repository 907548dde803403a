"""Classifies the errors of the driver and of the server."""

import ssl

import aiomysql
from pymysql.constants import CR, ER

from pyncette.errors import RepositoryError, TransientRepositoryError
from pyncette.mysql.connections import NoTLSError
from pyncette.mysql.statements import LONGEST_NAME
from pyncette.repository import table_of_history

__all__ = ["AGAIN", "DIED", "OtherRowsError", "code_of", "in_step", "is_elsewhere", "translated"]

_CONNECTION_KILLED = 1927  # MariaDB's
_IDLE_FOR_TOO_LONG = 4031  # MySQL's
_TLS_REQUIRED = 3159
#: A subquery with two rows where one is expected: how a statement aborts a series that went wrong.
_OTHER_ROWS = ER.SUBQUERY_NO_1_ROW

#: The transaction was or can be rolled back, and may be retried at once: deadlock, lock wait timeout, concurrent insert.
_IN_THE_WAY = {ER.LOCK_DEADLOCK, ER.LOCK_WAIT_TIMEOUT, ER.DUP_ENTRY}
#: Resources may be available again in a moment, even on an existing connection.
_TOO_MANY = {ER.CON_COUNT_ERROR, ER.TOO_MANY_USER_CONNECTIONS, ER.USER_LIMIT_REACHED}
#: To be retried until the call's time has passed.
AGAIN = _IN_THE_WAY | _TOO_MANY
#: The connection is lost.
DIED = {CR.CR_SERVER_GONE_ERROR, CR.CR_SERVER_LOST, _CONNECTION_KILLED, _IDLE_FOR_TOO_LONG}
#: The server or the network is temporarily at fault, so the call may be repeated.
_TRANSIENT = {
    *(CR.CR_CONNECTION_ERROR, CR.CR_CONN_HOST_ERROR, CR.CR_IPSOCK_ERROR),
    *(ER.SERVER_SHUTDOWN, ER.QUERY_INTERRUPTED, ER.OPTION_PREVENTS_STATEMENT),
    *(ER.DISK_FULL, ER.RECORD_FILE_FULL, ER.LOCK_TABLE_FULL),
    *(1792, 1836),  # read-only: this server was the primary until a moment ago
}
_TRANSIENT |= AGAIN | DIED


class OtherRowsError(RepositoryError):
    """A statement has written more or fewer rows than expected. Everything is rolled back."""


def translated(error: Exception, where: str, table: str, timeout: float) -> RepositoryError:
    """The error to report for ``error`` of a call on ``table`` of the server ``where``."""
    what = f"MySQL at {where}"
    code = code_of(error)
    if isinstance(error, TimeoutError):
        return TransientRepositoryError(f"{what} did not answer within {timeout:g} s; is the address right?")
    if isinstance(error, NoTLSError):
        return RepositoryError(
            f"{what} offers no TLS, so nothing was sent; enable it there, check what is between it and this program, or leave out mysql_ssl"
        )
    cause = error.__cause__
    if isinstance(cause, ssl.SSLError) and not isinstance(cause, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        reason = getattr(cause, "verify_message", None) or cause.reason or _line(cause)
        return RepositoryError(
            f"{what} and this program could not agree on TLS ({reason}); check mysql_ssl_ca and the other mysql_ssl options"
        )
    if code == CR.CR_CONN_HOST_ERROR:
        return TransientRepositoryError(f"{what} can't be reached ({_line(cause or error)}); is it running, is the address right?")
    if code in _TRANSIENT or not isinstance(error, aiomysql.MySQLError):
        return TransientRepositoryError(f"{what} can't be used now: {_line(error)}")
    if code in (ER.ACCESS_DENIED_ERROR, ER.DBACCESS_DENIED_ERROR):
        return RepositoryError(
            f"{what} refused the login: {_line(error)}; check user, password and grants, and whether it demands TLS"
        )
    if code == _TLS_REQUIRED:
        return RepositoryError(f"{what} requires encrypted connections; set mysql_ssl")
    if code == ER.BAD_DB_ERROR:
        return RepositoryError(f"{what} has no such database: {_line(error)}; create it, or correct the name")
    if code == ER.NO_SUCH_TABLE:
        history = table_of_history(table, LONGEST_NAME)
        table = history if history in str(error) else table
        return RepositoryError(f"There is no table {table!r} in {where}; create it, or restart to have it created")
    if code == ER.BAD_FIELD_ERROR:
        return RepositoryError(f"The table {table!r} in {where} is not one of Pyncette's; choose another mysql_table_name")
    if code == _OTHER_ROWS:
        return OtherRowsError(
            f"A statement on the table {table!r} in {where} met other rows than it had locked; is there a trigger on it?"
        )
    return RepositoryError(f"{what} refused: {_line(error)}")


def in_step(error: BaseException) -> bool:
    """Whether a connection is still usable: the server reported the error itself, or nothing was sent."""
    code = code_of(error)
    if code is not None:
        return not 2000 <= code < 3000 and code not in DIED
    return isinstance(error, (RepositoryError, UnicodeEncodeError))


def is_elsewhere(error: BaseException) -> bool:
    """Whether the address may now lead to another server than the one that answered."""
    return code_of(error) in _TRANSIENT - AGAIN


def code_of(error: BaseException) -> int | None:
    return error.args[0] if isinstance(error, aiomysql.MySQLError) and error.args and isinstance(error.args[0], int) else None


def _line(error: BaseException) -> str:
    text = str(error.args[-1]) if error.args else ""
    return text.splitlines()[0] if text else type(error).__name__
