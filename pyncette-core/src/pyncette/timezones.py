"""Time zones by their names: see :mod:`pyncette.schedules.zones`."""

from pyncette.schedules.zones import (
    find_zone,
    instant_of,
    set_back_at,
    wall_of,
)

__all__ = ["find_zone", "instant_of", "set_back_at", "wall_of"]
