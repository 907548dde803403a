"""Finds the stores that a run of the suite tests."""

import functools
import importlib.metadata
import itertools
import re
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from pyncette.backends import ENTRY_POINT_GROUP, BackendURL, from_url
from pyncette.repository import Repository
from pyncette_conformance.capabilities import Capabilities
from pyncette_conformance.transactions import UserTransactions, opener

__all__ = ["BackendUnderTest", "discover", "untested"]

_ENVIRONMENT = re.compile(r"PYNCETTE_TEST_([A-Z0-9_]+)_URL")
#: Placeholders in a URL: for a new directory, and for a unique name.
_DIRECTORY, _UNIQUE = "{directory}", "{unique}"
#: The backends that need no server, by scheme.
_SELF_CONTAINED: Mapping[str, Mapping[str, str]] = {
    "memory": {"memory": "memory://"},
    "sqlite": {"sqlite-memory": "sqlite://", "sqlite-file": f"sqlite:///{_DIRECTORY}/conformance.db"},
}
#: Capabilities of stores that live in the process, and end with the repository.
_TRANSIENT = Capabilities(durable=False, shared=False)


class BackendUnderTest:
    """A repository factory with a name, and the capabilities of its store."""

    def __init__(self, name: str, url: str, restart: str | None = None) -> None:
        self.name = name
        #: The command that kills and restarts its server, if there is one.
        self.restart = restart
        self._url = url
        self.capabilities: Capabilities = _TRANSIENT if _is_transient(url) else Capabilities()
        self._directory: Path | None = None
        self._unique = _new_name()

    @property
    def needs_directory(self) -> bool:
        """Whether :meth:`within` must be called before opening it."""
        return _DIRECTORY in self._url

    def within(self, directory: Path) -> None:
        """Keep files in ``directory``."""
        self._directory = directory

    def check(self) -> None:
        """Raise the :class:`~pyncette.errors.PyncetteError` that opening the URL would raise before it connects."""
        from_url(self._url.replace(_UNIQUE, self._unique))

    def fresh(self, directory: Path) -> str | None:
        """The URL of an empty store, with its files in ``directory`` if it has any; None if this one's URL does not vary."""
        url = self._url.replace(_DIRECTORY, str(directory)).replace(_UNIQUE, _new_name())
        return None if url == self._url else url

    def __call__(self) -> AbstractAsyncContextManager[Repository]:
        return from_url(self._url.replace(_DIRECTORY, str(self._directory)).replace(_UNIQUE, self._unique))()

    @property
    def user_transactions(self) -> UserTransactions | None:
        """A function that opens a user's connection to the same database and begins a transaction; None if unknown."""
        return opener(self._url.replace(_DIRECTORY, str(self._directory)).replace(_UNIQUE, self._unique))

    def __repr__(self) -> str:
        # shown with the values of a failing test, so without the password
        return f"<{self.name}: {BackendURL.parse(self._url)}>"


def discover(urls: Sequence[str], environment: Mapping[str, str], restarts: Sequence[str] = ()) -> Sequence[BackendUnderTest]:
    """A backend for each of ``urls``; without any, those that need no server and those that ``environment`` names.

    :param restarts: the command that restarts its server, for each of ``urls``.
    """
    if urls:
        named = [(BackendURL.parse(url).scheme, url) for url in urls]
    else:
        installed = _installed()
        named = [pair for scheme, found in _SELF_CONTAINED.items() if scheme in installed for pair in found.items()]
        named += _from_environment(environment)
    count: dict[str, int] = {}
    backends = []
    for (name, url), restart in itertools.zip_longest(named, restarts[: len(named)]):
        count[name] = count.get(name, 0) + 1
        backends.append(BackendUnderTest(name if count[name] == 1 else f"{name}-{count[name]}", url, restart))
    return backends


def untested(urls: Sequence[str], environment: Mapping[str, str]) -> Sequence[str]:
    """The installed schemes for which :func:`discover` finds no store."""
    tested = {BackendURL.parse(url).scheme for url in urls or [url for _, url in _from_environment(environment)]}
    return sorted(_installed() - tested - _SELF_CONTAINED.keys())


def _new_name() -> str:
    return f"conformance_{uuid.uuid4().hex[:12]}"


def _installed() -> set[str]:
    return {entry.name for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)}


def _from_environment(environment: Mapping[str, str]) -> list[tuple[str, str]]:
    found = sorted((match[1], url) for name, url in environment.items() if url and (match := _ENVIRONMENT.fullmatch(name)))
    return [(name.lower().replace("_", "-"), url) for name, url in found]


@functools.cache
def _is_transient(url: str) -> bool:
    parsed = BackendURL.parse(url)
    return parsed.scheme == "memory" or (parsed.scheme == "sqlite" and parsed.path in ("", "/", "/:memory:"))
