"""Whether Pyncette 1 is installed beside this."""

import importlib.metadata

__all__ = ["conflict"]


def conflict() -> str | None:
    """What is wrong if Pyncette 1 is installed beside this: both have files in one package, and the last one installed wins."""
    try:
        version = importlib.metadata.version("pyncette")
    except importlib.metadata.PackageNotFoundError:
        return None
    return (
        f"the distribution pyncette {version} is installed and overwrites files of pyncette-core; "
        "run: pip uninstall pyncette, then: pip install --force-reinstall --no-deps pyncette-core"
    )
