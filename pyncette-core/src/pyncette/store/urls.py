"""From a URL, or a factory and its options, to a repository.

A distribution offers backends through the entry-point group ``pyncette.backends``: one entry per URL scheme, each naming a
:class:`Backend`. Nothing is imported before its scheme is used.
"""

import functools
import inspect
import re
import urllib.parse
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias

from pyncette.errors import BackendImportError, BackendNotInstalledError, ConfigurationError, UnknownBackendError
from pyncette.store.contract import CONTRACT_VERSION, Repository
from pyncette.store.options import check_type, converted, instead_of, is_plain, options_of

__all__ = [
    "DISTRIBUTIONS",
    "ENTRY_POINT_GROUP",
    "Backend",
    "BackendURL",
    "Offer",
    "RepositoryFactory",
    "from_factory",
    "from_url",
    "load",
    "looking",
    "offers",
]

ENTRY_POINT_GROUP = "pyncette.backends"

#: The schemes of Pyncette's own distributions, so that errors can name a missing one.
DISTRIBUTIONS = {
    **{
        f"{name}{kind}": "pyncette-redis"
        for name in ("redis", "rediss", "valkey", "valkeys")
        for kind in ("", "+cluster", "+sentinel")
    },
    "redis+unix": "pyncette-redis",
    "valkey+unix": "pyncette-redis",
    "postgres": "pyncette-postgres",
    "postgresql": "pyncette-postgres",
    "mysql": "pyncette-mysql",
    "mariadb": "pyncette-mysql",
    "dynamodb": "pyncette-dynamodb",
}

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_HOST = re.compile(r"([^:@\[\]]*|\[[^@\[\]]*\])(:0*(\d{1,4}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d\d|655[0-2]\d|6553[0-5])?)?")
#: Text in a path that may be credentials.
_CREDENTIALS = re.compile(r"[^/]*:[^@]*@")

#: Opens a repository for as long as the context lasts, and then closes it.
RepositoryFactory: TypeAlias = Callable[..., AbstractAsyncContextManager[Repository]]


@dataclass(frozen=True, slots=True, repr=False)
class BackendURL:
    """A URL, parsed once. Its ``str`` and ``repr`` show no password, nor anything that may be one."""

    scheme: str
    #: The part between ``//`` and the path without the credentials: ``host:port``, or several of them with commas.
    hosts: str
    #: From the slash on, percent-decoded; empty if there is none.
    path: str
    username: str | None
    password: str | None
    #: The query: options of the backend, named like its factory's parameters without the prefix. May contain passwords.
    options: Mapping[str, str]

    @classmethod
    def parse(cls, url: str) -> "BackendURL":
        """Parse ``url``; raises :class:`ConfigurationError` if it has no scheme or can't be parsed."""
        if not isinstance(url, str):
            raise ConfigurationError(
                f"The URL of the store is of type {type(url).__name__}; pass a str such as 'sqlite:///pyncette.db'"
            )
        if not url.strip():
            raise ConfigurationError(
                "The URL of the store is empty; if it comes from an environment variable, set that, for example to sqlite:///pyncette.db"
            )
        scheme, separator, rest = url.partition("://")
        if not separator or not _SCHEME.fullmatch(scheme):
            shown = repr(url) if _SCHEME.fullmatch(url) else "What was given"  # without the text, which may contain a password
            raise ConfigurationError(f"{shown} is not a URL of a store; write for example 'sqlite:///pyncette.db'")
        # Split by hand first: urlsplit accepts '+' in schemes, but neither several hosts nor every password.
        location, _, query = rest.partition("?")
        authority, slash, path = location.partition("/")
        credentials, at, hosts = authority.rpartition("@")
        username, colon, password = credentials.partition(":")
        if _may_hide_credentials(authority, path, query):
            # If it were parsed as it is, half a password would become a host, and would be shown.
            raise ConfigurationError(
                f"The {scheme}:// URL has an '@' after a '/' or '?'; write them as %40, %2F and %3F in credentials, paths and options"
            )
        if not all(_HOST.fullmatch(host) for host in hosts.split(",")) or (hosts.startswith(":") and not at):
            # Don't show it: it may be a password without the '@' after it.
            raise ConfigurationError(
                f"The {scheme}:// URL has something other than HOST or HOST:PORT after its '//'; credentials go before an '@', "
                "as USER:PASSWORD@HOST or :PASSWORD@HOST"
            )
        pairs = urllib.parse.parse_qsl(query, keep_blank_values=True)
        options = dict(pairs)
        if len(options) < len(pairs):
            raise ConfigurationError(f"An option is given twice in the {scheme}:// URL; give each once")
        unquote = urllib.parse.unquote
        return cls(
            scheme.lower(),
            hosts,
            unquote(slash + path),
            unquote(username) if at and username else None,
            unquote(password) if colon else None,
            options,
        )

    def hostname(self, default: str = "localhost") -> str:
        """The only host, without its port."""
        return self._host_and_port()[0] or default

    def port(self, default: int) -> int:
        """The only host's port."""
        return self._host_and_port()[1] or default

    def _host_and_port(self) -> tuple[str | None, int | None]:
        try:
            split = urllib.parse.urlsplit(f"//{self.hosts}")
            return split.hostname, split.port
        except ValueError:
            raise ConfigurationError(f"{self.hosts!r} is not one host and port, in {self}; write HOST:PORT") from None

    def unparse(self, scheme: str | None = None, options: Collection[str] = ()) -> str:
        """The URL WITH the password and those of its options that are among ``options``, for a driver that takes URLs; never to be shown."""
        quote = functools.partial(urllib.parse.quote, safe="")
        user = "" if self.username is None else quote(self.username)
        password = "" if self.password is None else ":" + quote(self.password)
        at = "@" if user or password else ""
        query = urllib.parse.urlencode(
            {name: value for name, value in self.options.items() if name in options}, quote_via=urllib.parse.quote
        )
        return f"{scheme or self.scheme}://{user}{password}{at}{self.hosts}{urllib.parse.quote(self.path)}{query and '?' + query}"

    def __str__(self) -> str:
        # a user name without a password may be a token
        user = "" if self.username is None else "***" if self.password is None else self.username
        password = "" if self.password is None else ":***"
        at = "@" if user or password else ""
        return f"{self.scheme}://{user}{password}{at}{self.hosts}{_CREDENTIALS.sub('***@', self.path)}"

    def __repr__(self) -> str:
        return f"<BackendURL {self}>"


@dataclass(frozen=True, slots=True)
class Backend:
    """The object that an entry point of the group ``pyncette.backends`` names."""

    #: The :data:`~pyncette.repository.CONTRACT_VERSION` for which the backend was written, as a literal; several, such as ``(1, 2)``, if
    #: it adapts to the one in ``pyncette.repository``.
    contract_version: int | Collection[int]
    #: Takes its options as keyword-only parameters of type str, int, float, bool or timedelta (or None), named with the
    #: ``prefix``; an asynchronous context manager of a repository. If it creates something, an option ``PREFIX_skip_table_create``
    #: keeps it from that, and :class:`~pyncette.errors.StoreMissingError` says that there is nothing: see :func:`looking`.
    factory: RepositoryFactory
    #: The prefix of all parameters of the factory (``"redis_"``), which the options of a URL leave out.
    prefix: str
    #: The factory's options that are in the URL's hosts, path and credentials. Raises ConfigurationError if they are not valid.
    from_url: Callable[[BackendURL], Mapping[str, Any]] = lambda url: {}
    #: Options of a URL that ``from_url`` reads itself, because they are the driver's.
    url_options: Collection[str] = ()


class _Opener(functools.partial[AbstractAsyncContextManager[Repository]]):
    """A factory with its options, which may include passwords."""

    def __repr__(self) -> str:
        return f"<{self.func!r} with {', '.join(self.keywords) or 'no options'}>"


def looking(opener: Callable[[], AbstractAsyncContextManager[Repository]]) -> Callable[[], AbstractAsyncContextManager[Repository]]:
    """Open the repository of ``opener``, a result of :func:`from_url` or :func:`from_factory`, for reading only.

    Creates neither a file nor a table: if nothing exists yet, opening raises :class:`~pyncette.errors.StoreMissingError`. Its methods are
    not restricted: those that write still write.
    """
    if isinstance(opener, _Opener):
        for name in options_of(opener.func):
            if name.endswith("_skip_table_create"):
                return _Opener(opener.func, **opener.keywords | {name: True})
    return opener


def from_url(url: str) -> Callable[[], AbstractAsyncContextManager[Repository]]:
    """A function that opens the repository at ``url``.

    Raises :class:`UnknownBackendError`, :class:`BackendNotInstalledError` or :class:`BackendImportError` if its scheme has no
    usable backend, and :class:`ConfigurationError` if the URL or one of its options is wrong.
    """
    parsed = BackendURL.parse(url)
    backend = load(parsed.scheme)
    options = dict(backend.from_url(parsed))
    parameters = options_of(backend.factory)
    # options that no text can express, such as an ssl.SSLContext, are for code only
    known = {name.removeprefix(backend.prefix): name for name in parameters if name not in options and is_plain(parameters[name])}
    for name, text in parsed.options.items():
        if name in backend.url_options:
            continue
        if name not in known:
            raise ConfigurationError(
                f"Unknown option {name!r} in the URL {parsed}{instead_of(name, {*known, *backend.url_options})}"
            )
        options[known[name]] = converted(name, text, parameters[known[name]])
    return from_factory(backend.factory, options)


def from_factory(
    factory: RepositoryFactory, options: Mapping[str, Any], besides: Iterable[str] = ()
) -> Callable[[], AbstractAsyncContextManager[Repository]]:
    """A function that opens the repository of ``factory`` with ``options``. ``besides``: further options that the caller knows.

    Raises :class:`ConfigurationError` for an unknown option, a missing one, or one of the wrong type.
    """
    if not callable(factory):
        raise ConfigurationError(
            f"The repository_factory is of type {type(factory).__name__}; pass a function such as sqlite_repository"
        )
    signature = inspect.signature(factory)
    known = options_of(factory)
    free = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())
    for name, value in options.items():
        if name in known:
            check_type(name, value, known[name])
        elif not free:
            raise ConfigurationError(f"Unknown option {name!r}{instead_of(name, {*known, *besides})}")
    for name, parameter in signature.parameters.items():
        if name in known and parameter.default is parameter.empty and name not in options:
            raise ConfigurationError(f"The option {name!r} of the repository is missing; pass {name}=...")
    return _Opener(factory, **options)


@dataclass(frozen=True, slots=True)
class Offer:
    """A scheme, and the distribution that provides it."""

    scheme: str
    distribution: str
    #: None if it is not installed.
    version: str | None


def offers() -> Sequence[Offer]:
    """All known schemes, by name; one that two distributions offer appears twice. Imports nothing: :func:`load` says which work."""
    from importlib.metadata import entry_points

    installed = [
        Offer(entry.name, entry.dist.name if entry.dist else entry.value, entry.dist.version if entry.dist else "unknown")
        for entry in entry_points(group=ENTRY_POINT_GROUP)
    ]
    schemes = {offer.scheme for offer in installed}
    missing = [Offer(scheme, package, None) for scheme, package in DISTRIBUTIONS.items() if scheme not in schemes]
    return sorted({*installed, *missing}, key=lambda offer: (offer.scheme, offer.distribution))


@functools.cache  # cached, because finding entry points reads a file of each installed distribution
def load(scheme: str) -> Backend:
    """The installed backend for ``scheme``; raises the same errors as :func:`from_url`."""
    from importlib.metadata import entry_points  # imported here because it takes a sixth of the time of importing this package

    offered = entry_points(group=ENTRY_POINT_GROUP)
    entries = [entry for entry in offered if entry.name == scheme]
    if not entries:
        if scheme in DISTRIBUTIONS:
            package = DISTRIBUTIONS[scheme]
            raise BackendNotInstalledError(f"{scheme}:// needs the package {package}. Install it with: pip install {package}")
        schemes = {entry.name for entry in offered}
        raise UnknownBackendError(f"No backend is known for {scheme}://{instead_of(scheme, schemes | DISTRIBUTIONS.keys())}")
    owners = sorted({entry.dist.name if entry.dist else entry.value for entry in entries})
    if len(owners) > 1:
        raise ConfigurationError(f"{scheme}:// is provided by {' and '.join(owners)}; uninstall all but one of them")
    try:
        backend = entries[0].load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # including SystemExit
        raise BackendImportError(
            f"{scheme}:// belongs to {owners[0]}, which failed to import ({type(error).__name__}: {' '.join(str(error).split())}); "
            f"try: pip install --force-reinstall {owners[0]}"
        ) from error
    if not isinstance(backend, Backend):
        raise BackendImportError(f"{entries[0].value} of {owners[0]} is not a pyncette.backends.Backend; upgrade {owners[0]}")
    stated = backend.contract_version
    versions = [stated] if isinstance(stated, int) else sorted(stated)
    if CONTRACT_VERSION not in versions:
        older = "pyncette-core" if versions and versions[0] > CONTRACT_VERSION else owners[0]
        raise BackendImportError(
            f"{owners[0]} implements version {' and '.join(map(str, versions)) or 'none'} of the repository contract, "
            f"this pyncette-core has {CONTRACT_VERSION}; upgrade {older}"
        )
    return backend


def _may_hide_credentials(authority: str, path: str, query: str) -> bool:
    """Whether credentials seem to contain a slash or a question mark, so that a part of them is in the path or the query."""
    if "@" in query.partition("=")[0] or (authority and "@" in path):
        return True
    no_port = re.search(r":(?!\d*(,|$))[^]]*$", authority) is not None
    return no_port and "@" in query and "@" not in authority
