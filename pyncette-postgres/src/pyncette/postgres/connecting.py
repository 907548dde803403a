"""From a URL to connections: the options of a URL, detecting a pooler, and errors while connecting."""

import asyncio
import contextlib
import ssl
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from pyncette.backends import BackendURL
from pyncette.errors import ConfigurationError, RepositoryError, TransientRepositoryError

__all__ = ["OPTIONS", "TRANSIENT", "Connecting", "Way", "line"]

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": ("any", "primary", "standby", "prefer-standby", "read-write", "read-only"),
    "ssl_min_protocol_version": ("TLSv1.2", "TLSv1.3"),
    "sslnegotiation": ("postgres", "direct"),
}
_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
#: The value of sslrootcert that means the authorities this machine trusts.
_SYSTEM = "system"
#: Options of libpq that asyncpg lacks, with the values that are accepted because they require nothing.
_NOTHING = {"channel_binding": ("disable", "prefer"), "gssencmode": ("disable", "prefer")}
#: Options of libpq that a URL may have.
OPTIONS = frozenset({*_CHOICES, *_FILES, *_NOTHING, "sslpassword", "passfile", "host", "port", "application_name"})
#: The server or the network is temporarily at fault, so the call may be repeated.
TRANSIENT = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,  # the connection was closed
    asyncpg.InternalClientError,
    asyncpg.OperatorInterventionError,  # the server shuts down, or an administrator or a time limit cancelled the query
    asyncpg.InsufficientResourcesError,  # too many connections, disk full
    asyncpg.TransactionRollbackError,  # deadlock, serialization failure
    asyncpg.ObjectInUseError,
    asyncpg.LockNotAvailableError,
    asyncpg.ReadOnlySQLTransactionError,  # this server was the primary until a moment ago
    asyncpg.InvalidSQLStatementNameError,  # a pooler switched the session
    asyncpg.DuplicatePreparedStatementError,
    OSError,
    TimeoutError,
)


@dataclass(frozen=True)
class Way:
    """How to connect, and how to start a session."""

    #: Arguments for :func:`asyncpg.connect`.
    arguments: Mapping[str, Any]
    #: A statement to execute before each statement, if any.
    begin: str | None = None
    #: Whether the next statement may run in another session.
    pooled: bool = False


class Connecting:
    """How to reach a server."""

    def __init__(self, url: str, context: ssl.SSLContext | None, timeout: float) -> None:
        """Raises :class:`ConfigurationError` if the URL, one of its options or ``context`` is not valid."""
        parsed = BackendURL.parse(url)
        options = dict(parsed.options)
        _check(options, parsed)
        if context is not None and not isinstance(context, ssl.SSLContext):
            raise ConfigurationError(
                f"postgres_ssl is of type {type(context).__name__}; pass an ssl.SSLContext, or write sslmode=... in the URL"
            )
        if context is not None and (given := sorted(name for name in options if name.startswith("ssl"))):
            raise ConfigurationError(f"postgres_ssl and {given[0]!r} of the URL are both given; leave out one of them")
        self.where: str = f"{parsed.hosts or options.get('host') or 'the default host'}{parsed.path}"
        self.timeout = timeout
        self._name = options.pop("application_name", "pyncette")
        if options.get("sslrootcert") == _SYSTEM:
            context = ssl.create_default_context()
            options = {name: value for name, value in options.items() if not name.startswith("ssl")}
        query = urllib.parse.urlencode({name: value for name, value in options.items() if name not in _NOTHING})
        self._arguments: dict[str, Any] = {"dsn": parsed.unparse() + (f"?{query}" if query else ""), "timeout": timeout}
        if context is not None:
            self._arguments["ssl"] = context

    async def find(self) -> Way:
        """How to connect, depending on what answers there.

        Raises :class:`RepositoryError` or :class:`TransientRepositoryError` if no usable server answers.
        """
        with self.explained():
            async with asyncio.timeout(self.timeout):
                # Use no start-up parameters and no named statements yet: poolers refuse the former, and mix up the latter.
                connection = await asyncpg.connect(**self._arguments, statement_cache_size=0)
                try:
                    pid, isolation = await connection.fetchrow(
                        "SELECT pg_backend_pid(), current_setting('default_transaction_isolation')"
                    )
                    pooled = pid != connection.get_server_pid()  # poolers invent their own process id, to forward cancellations
                finally:
                    connection.terminate()
        if pooled:
            return self.pooled(isolation)
        settings = {
            "application_name": self._name,
            "default_transaction_isolation": "read committed",
            # Each statement is planned once per connection, perhaps while the table is still empty. Planning for actual arrays
            # takes longer than executing the statement.
            "plan_cache_mode": "force_generic_plan",
            "enable_seqscan": "off",
            "jit": "off",
        }
        return Way({**self._arguments, "server_settings": settings})

    def pooled(self, isolation: str = "read committed") -> Way:
        """How to connect to a pooler. The next statement may run in another session, so prepare and set nothing."""
        begin = None if isolation == "read committed" else "BEGIN ISOLATION LEVEL READ COMMITTED"
        return Way({**self._arguments, "statement_cache_size": 0}, begin, pooled=True)

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turn errors while connecting into a :class:`RepositoryError` that says what to do."""
        try:
            yield
        except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            raise _failure(error, self.where, self.timeout) from error


def _check(options: Mapping[str, str], url: BackendURL) -> None:
    for name, value in options.items():
        if name not in OPTIONS:
            raise ConfigurationError(f"Unknown option {name!r} in the URL {url}; use one of {', '.join(sorted(OPTIONS))}")
        if name in _CHOICES and value not in _CHOICES[name]:
            raise ConfigurationError(f"The option {name}={value!r} of the URL is not one of {', '.join(_CHOICES[name])}")
        if name in _NOTHING and value not in _NOTHING[name]:
            raise ConfigurationError(
                f"{name}={value!r} of the URL is not supported by asyncpg; leave it out, and use sslmode=verify-full, "
                "which also prevents interception"
            )
        if name in _FILES and (name, value) != ("sslrootcert", _SYSTEM):
            try:
                Path(value).read_bytes()
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                raise ConfigurationError(f"The file {name}={value!r} of the URL can't be read: {reason}") from None
        if name == "port" and not all(port.isdecimal() and 0 < int(port) < 65536 for port in value.split(",")):
            raise ConfigurationError(
                f"The option port={value!r} of the URL is not a number from 1 to 65535, nor several separated by commas"
            )
    if options.get("sslrootcert") == _SYSTEM and (options.get("sslmode", "verify-full") != "verify-full" or "sslcert" in options):
        raise ConfigurationError(
            "sslrootcert='system' of the URL requires sslmode=verify-full, and can't be combined with sslcert; pass an ssl.SSLContext as postgres_ssl"
        )
    if url.hosts and options.get("host"):
        raise ConfigurationError(f"The URL {url} has a host after its '//' and another in its options; leave out one of them")


def _failure(error: BaseException, where: str, timeout: float) -> RepositoryError:
    """Why connecting failed, and what to do, in one line."""
    at = f"PostgreSQL at {where}"
    text = line(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return RepositoryError(
            f"{at} has a certificate that can't be trusted: {error.verify_message}; pass the file of its certificate authority "
            "as sslrootcert, and write the host as the certificate names it"
        )
    if isinstance(error, ssl.SSLError):
        return RepositoryError(
            f"{at} can't be used with these TLS settings: {text}; check sslmode, sslrootcert, sslcert and sslkey"
        )
    if isinstance(error, ConnectionError) and "rejected SSL upgrade" in text:
        return RepositoryError(f"{at} offers no TLS; switch it on there, or use sslmode=disable if nobody can eavesdrop")
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):  # including a wrong password
        advice = "check user and password"
        if "no encryption" in text or "SSL off" in text:
            advice = "if the server requires TLS, use sslmode=require or verify-full"
        elif "certificate" in text:
            advice = "give sslcert and sslkey"
        return RepositoryError(f"{at} refused the login: {text}; {advice}")
    if isinstance(error, asyncpg.InvalidCatalogNameError):
        return RepositoryError(f"{at} has no such database: {text}; create it, or correct the URL")
    if isinstance(error, TimeoutError):
        return TransientRepositoryError(f"{at} did not answer within {timeout:g} s; is the address right?")
    if isinstance(error, OSError):
        return TransientRepositoryError(f"{at} can't be reached ({text}); is it running, is the address right?")
    if isinstance(error, asyncpg.exceptions.ClientConfigurationError) or not isinstance(error, TRANSIENT):
        return RepositoryError(f"{at} can't be used: {text}")
    return TransientRepositoryError(f"{at} can't be used now: {text}")


def line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
