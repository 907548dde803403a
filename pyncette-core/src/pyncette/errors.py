"""The error tree. Everything that Pyncette raises deliberately is a :class:`PyncetteError`.

A message is one line: what is wrong, which value, what to do. No message contains a password.
"""

__all__ = [
    "BackendImportError",
    "BackendNotInstalledError",
    "ConfigurationError",
    "LeaseLostException",
    "PyncetteError",
    "RepositoryError",
    "ScheduleError",
    "StoreMissingError",
    "TransientRepositoryError",
    "UnknownBackendError",
]


class PyncetteError(Exception):
    """The root of all errors raised by Pyncette."""


class ConfigurationError(PyncetteError, ValueError):
    """A declaration, an option or an argument is wrong; raised immediately, before anything is stored."""


class ScheduleError(ConfigurationError):
    """A cron expression, an interval, an instant or a time zone is invalid, or never matches."""


class UnknownBackendError(ConfigurationError):
    """No backend is known for the scheme of a URL."""


class BackendNotInstalledError(PyncetteError, ImportError):
    """The scheme of a URL is known, but the distribution that serves it is not installed."""


class BackendImportError(PyncetteError, ImportError):
    """The distribution that serves a scheme is installed, but failed to import."""


class RepositoryError(PyncetteError):
    """The store refused the call or failed, and repeating the call would not help."""


class StoreMissingError(RepositoryError):
    """There is nothing yet where the store should be: no file, no table. The application creates it when it first runs."""


class TransientRepositoryError(RepositoryError, ConnectionError):
    """The store was unreachable or busy, or timed out. The call may have been applied; you can repeat it."""


class LeaseLostException(PyncetteError):
    """The lease of a running task has been lost: another worker may already run the same occurrence."""
