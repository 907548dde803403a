"""A dashboard: inspect and control an application in a browser. See :class:`Dashboard`."""

from pyncette.dashboard.application import Dashboard

__all__ = ["Dashboard"]
