"""The application named in the settings, for worker processes: ``pyncette run pyncette.django.worker:app``."""

from collections.abc import Awaitable, Callable
from typing import Any

import django
from asgiref.sync import sync_to_async
from django.db import close_old_connections

from pyncette.app import Pyncette
from pyncette.django import application

__all__ = ["app"]


async def close_connections(context: Any, next: Callable[[], Awaitable[None]]) -> None:
    """Close connections that are too old or broken before and after each run, as Django does for each request."""
    await sync_to_async(close_old_connections)()
    try:
        await next()
    finally:
        await sync_to_async(close_old_connections)()


django.setup()
app: Pyncette = application()
app.use_middleware(close_connections)
