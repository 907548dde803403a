"""The options of a new connection in the driver's terms, including TLS and the password."""

import math
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pyncette.backends import BackendURL
from pyncette.errors import ConfigurationError

__all__ = ["TLS_MODES", "URL_OPTIONS", "from_url", "login", "tls"]

# Sent once per connection, in one round trip. Without it, a connection that died without warning would keep its locks, and every claim
# would skip those rows, until the server's wait_timeout, which is eight hours by default; and a statement that waits for a lock would
# continue for 50 seconds after its caller has given up. MySQL and MariaDB each read only their own comments.
_SESSION = """SET SESSION wait_timeout = {idle:d}, SESSION innodb_lock_wait_timeout = {locked:d}, SESSION sql_mode = 'STRICT_ALL_TABLES',
SESSION completion_type = 'NO_CHAIN', SESSION sql_big_selects = 1, SESSION sql_safe_updates = 0,
/*!80000 SESSION transaction_isolation */ /*M! SESSION tx_isolation */ = 'READ-COMMITTED'"""

#: The modes of MySQL's own programs, except PREFERRED.
TLS_MODES = ("DISABLED", "REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY")

#: The spellings of MySQL's own programs, which hosting providers use in URLs.
URL_OPTIONS = ("ssl-mode", "ssl-ca", "ssl-cert", "ssl-key")


def login(
    host: str,
    port: int,
    unix_socket: str | None,
    user: str | None,
    password: str,
    database: str,
    timeout: float,
    context: ssl.SSLContext | None,
) -> Callable[[], dict[str, Any]]:
    """A function that returns the options of a connection, so that no object whose repr might be shown contains them."""
    for name, value in {"mysql_user": user or "", "mysql_password": password, "mysql_database": database}.items():
        if "\0" in value or not _is_text(value):
            shown = "" if name == "mysql_password" else f"={value!r}"
            raise ConfigurationError(f"{name}{shown} is not text that a server could accept; it contains NUL or a lone surrogate")

    def options() -> dict[str, Any]:
        return {
            "host": host,
            "port": port,
            "unix_socket": unix_socket,
            "user": user,
            # The driver would encode it as Latin-1, but servers store passwords from current clients in UTF-8.
            "password": password.encode().decode("latin-1"),
            "db": database,
            "charset": "utf8mb4",
            "autocommit": True,
            # No connect_timeout: the driver would use asyncio.wait_for, which can lose a cancellation before Python 3.12.
            # A turn limits connecting, too.
            # A call takes no longer than the first; the second leaves a call time for a retry.
            "init_command": _SESSION.format(idle=math.ceil(timeout) + 1, locked=max(1, int(timeout / 2))),
            "local_infile": False,
            "ssl": context,
        }

    return options


def tls(
    wanted: bool, mode: str | None, ca: str | None, cert: str | None, key: str | None, context: ssl.SSLContext | None
) -> ssl.SSLContext | None:
    """How connections are encrypted; None: not at all."""
    files = {"mysql_ssl_ca": ca, "mysql_ssl_cert": cert, "mysql_ssl_key": key}
    given = [name for name, value in files.items() if value is not None]
    if context is not None:
        if given or mode is not None:
            raise ConfigurationError(f"mysql_ssl_context covers everything; leave out {(given or ['mysql_ssl_mode'])[0]}")
        return context
    if mode is not None:
        known = mode.upper().replace("-", "_")
        if known == "PREFERRED":
            raise ConfigurationError(
                "mysql_ssl_mode='PREFERRED' gives no protection, because an attacker in between can refuse TLS; use 'REQUIRED' or 'VERIFY_IDENTITY'"
            )
        if known not in TLS_MODES:
            raise ConfigurationError(f"mysql_ssl_mode={mode!r} is not known; use one of {', '.join(TLS_MODES)}")
        if known == "DISABLED" and (wanted or given):
            raise ConfigurationError(
                f"mysql_ssl_mode={mode!r} and {(given or ['mysql_ssl'])[0]} contradict each other; leave out one"
            )
        if known == "DISABLED":
            return None
        mode = known
    elif not wanted and not given:
        return None
    if key is not None and cert is None:
        raise ConfigurationError("mysql_ssl_key has no effect without mysql_ssl_cert; pass both")
    for name in given:
        if not Path(files[name] or "").is_file():
            raise ConfigurationError(f"{name}={files[name]!r} is not a file on this machine")
    try:
        context = ssl.create_default_context(cafile=ca)
        if cert is not None:
            context.load_cert_chain(cert, key, password=lambda: "")  # otherwise OpenSSL would prompt on the terminal
    except (OSError, ValueError) as error:  # TLS errors are OSErrors, too
        what = f"{', '.join(given)} can't be used ({getattr(error, 'reason', None) or error})"
        raise ConfigurationError(
            f"{what}; they have to be PEM files, and the key not encrypted. Or pass a mysql_ssl_context"
        ) from error
    context.check_hostname = mode in (None, "VERIFY_IDENTITY")
    if mode == "REQUIRED" and ca is None:
        context.verify_mode = ssl.CERT_NONE
    return context


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def from_url(url: BackendURL) -> Mapping[str, Any]:
    if len(url.path) < 2:
        raise ConfigurationError(f"The URL {url} names no database; write {url.scheme}://HOST/DATABASE")
    return {
        "mysql_host": url.hostname(),
        "mysql_port": url.port(3306),
        "mysql_user": url.username,
        "mysql_password": url.password or "",
        "mysql_database": url.path[1:],
        **{f"mysql_{name.replace('-', '_')}": url.options[name] for name in URL_OPTIONS if name in url.options},
    }
