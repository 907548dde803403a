"""How far claims look where that is expensive: see :mod:`pyncette.store.looks`."""

from pyncette.store.looks import Look, Looks

__all__ = ["Look", "Looks"]
