"""A dashboard: see what an application has stored, and steer it, in a browser. See :class:`Dashboard`."""

from pyncette.dashboard.application import Dashboard

__all__ = ["Dashboard"]
