"""Whether Pyncette 1 is installed in the same environment."""

import importlib.metadata

__all__ = ["conflict"]


def conflict() -> str | None:
    """The problem, if Pyncette 1 is installed too: both have files in the same package, and the last one installed wins."""
    try:
        version = importlib.metadata.version("pyncette")
    except importlib.metadata.PackageNotFoundError:
        return None
    return (
        f"the distribution pyncette {version} is installed and overwrites files of pyncette-core; "
        "run: pip uninstall pyncette, then: pip install --force-reinstall --no-deps pyncette-core"
    )
