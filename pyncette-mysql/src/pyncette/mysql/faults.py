"""What the errors of the driver and of the server mean."""

import aiomysql
from pymysql.constants import CR, ER

from pyncette.errors import RepositoryError, TransientRepositoryError

__all__ = ["AGAIN", "code_of", "translated"]

#: The transaction was rolled back and may be tried again at once: deadlock, lock wait timeout, somebody else inserted the row.
AGAIN = {ER.LOCK_DEADLOCK, ER.LOCK_WAIT_TIMEOUT, ER.DUP_ENTRY}
#: The server or the way to it is at fault, and will be back: the call may be repeated.
_TRANSIENT = {
    *(CR.CR_CONNECTION_ERROR, CR.CR_CONN_HOST_ERROR, CR.CR_SERVER_GONE_ERROR, CR.CR_SERVER_LOST, CR.CR_IPSOCK_ERROR),
    *(ER.CON_COUNT_ERROR, ER.SERVER_SHUTDOWN, ER.QUERY_INTERRUPTED, ER.OPTION_PREVENTS_STATEMENT, ER.TOO_MANY_USER_CONNECTIONS),
    *(ER.DISK_FULL, ER.RECORD_FILE_FULL, ER.LOCK_TABLE_FULL),
    1836,  # read-only: this was the primary until a moment ago
    1927,  # MariaDB: connection was killed
}
_TRANSIENT |= AGAIN


def translated(error: Exception, where: str, table: str, timeout: float) -> RepositoryError:
    """What ``error``, of the table ``table`` of the server ``where``, means to the caller."""
    what = f"MySQL at {where}"
    code = code_of(error)
    if isinstance(error, TimeoutError):
        return TransientRepositoryError(f"{what} did not answer within {timeout:g} s; is the address right?")
    if code == CR.CR_CONN_HOST_ERROR:
        return TransientRepositoryError(
            f"{what} can't be reached ({_line(error.__cause__ or error)}); is it running, is the address right?"
        )
    if code in _TRANSIENT or not isinstance(error, aiomysql.MySQLError):
        return TransientRepositoryError(f"{what} can't be used now: {_line(error)}")
    if code in (ER.ACCESS_DENIED_ERROR, ER.DBACCESS_DENIED_ERROR):
        return RepositoryError(f"{what} refused the login: {_line(error)}; check user, password and grants")
    if code == ER.BAD_DB_ERROR:
        return RepositoryError(f"{what} has no such database: {_line(error)}; create it, or correct the name")
    if code == ER.NO_SUCH_TABLE:
        return RepositoryError(f"There is no table {table!r} in {where}; create it, or restart to have it created")
    if code == ER.BAD_FIELD_ERROR:
        return RepositoryError(f"The table {table!r} in {where} is not one of Pyncette's; choose another mysql_table_name")
    return RepositoryError(f"{what} refused: {_line(error)}")


def code_of(error: BaseException) -> int | None:
    return error.args[0] if isinstance(error, aiomysql.MySQLError) and error.args and isinstance(error.args[0], int) else None


def _line(error: BaseException) -> str:
    text = str(error.args[-1]) if error.args else ""
    return text.splitlines()[0] if text else type(error).__name__
