"""From ``MODULE:APP`` or ``FILE.py:APP`` to an application."""

import functools
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from pyncette.app import Pyncette
from pyncette.checks import did_you_mean
from pyncette.errors import ConfigurationError

__all__ = ["load_app"]


def load_app(target: str | None, url: str | None = None) -> Pyncette:
    """Import the application that ``target`` names (None: an empty application), and set its store if there is a ``url``.

    Raises ConfigurationError if there is no such application, and any error of the import.
    """
    app = Pyncette() if target is None else _load(target)
    if url is not None:
        app.use_repository(url)
    return app


def _load(target: str) -> Pyncette:
    if "://" in target:  # it may contain a password
        raise ConfigurationError(
            "A URL is given where the app belongs; write MODULE:APP or FILE.py:APP, and pass the URL with --url"
        )
    location, colon, name = target.rpartition(":")
    if not colon:
        location, name = target, ""
    try:
        module = _load_file(Path(location)) if location.endswith(".py") else _load_module(location)
    except SystemExit as error:
        raise ConfigurationError(
            f"{location} ended with exit code {error.code!r} while it was imported; "
            "put the code that starts the program below: if __name__ == '__main__':"
        ) from error
    apps = [key for key, value in vars(module).items() if isinstance(value, Pyncette)]
    offered = f"its apps are {', '.join(apps)}" if apps else "it has no Pyncette object"
    if not name:
        raise ConfigurationError(
            f"{target!r} does not name an app in {location}; {offered}; write {location}:{(apps or ['app'])[0]}"
        )
    try:
        app = functools.reduce(getattr, name.split("."), module)
    except AttributeError:
        close = did_you_mean(name, apps)
        raise ConfigurationError(f"{location} has no {name!r}; {f'did you mean {close!r}?' if close else offered}") from None
    if not isinstance(app, Pyncette):
        raise ConfigurationError(f"{name!r} in {location} is of type {type(app).__name__}, not a Pyncette; {offered}")
    return app


def _load_module(name: str) -> ModuleType:
    # A console script has its own directory there, unlike `python -m`.
    _add_to_path(Path.cwd())
    if not all(part.isidentifier() for part in name.split(".")):
        raise ConfigurationError(f"{name!r} is neither the name of a module nor of a .py file; write MODULE:APP or FILE.py:APP")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # unless the application itself needs the missing module
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            hint = (
                f"; did you mean {name}.py?" if Path(f"{name}.py").exists() else f" in {Path.cwd()} or among the installed packages"
            )
            raise ConfigurationError(f"There is no module {error.name!r}{hint}") from None
        raise


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigurationError(f"There is no file {path}, relative to {Path.cwd()}")
    _add_to_path(path.resolve().parent)
    # Register it under its importable name, so that other processes find its functions, but never replace another module.
    name = path.stem if path.stem not in sys.modules else f"pyncette_app_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _add_to_path(directory: Path) -> None:
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))
