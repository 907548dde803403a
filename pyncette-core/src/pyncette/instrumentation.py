"""Hooks for those who measure: see :mod:`pyncette.hooks`."""

from pyncette.hooks import (
    Instrumentation,
    Instruments,
)

__all__ = ["Instrumentation", "Instruments"]
