"""Pyncette in a Django project: add ``"pyncette.django"`` to INSTALLED_APPS, and name the application in the settings.

``PYNCETTE_APP = "shop.scheduling:app"`` is a :class:`pyncette.Pyncette`. Views schedule with :func:`client`, and
``python manage.py pyncette run`` runs what is scheduled. Pyncette itself never imports this package.
"""

import functools

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from pyncette.app import Pyncette
from pyncette.blocking import BlockingClient
from pyncette.cli.loading import load_app

__all__ = ["application", "client"]


@functools.cache
def application() -> Pyncette:
    """The application that the setting PYNCETTE_APP names."""
    name = getattr(settings, "PYNCETTE_APP", None)
    if not isinstance(name, str):
        raise ImproperlyConfigured('The setting PYNCETTE_APP is missing; set it to the application, as in "shop.scheduling:app"')
    return load_app(name)


@functools.cache
def client() -> BlockingClient:
    """The client of this process: all threads share it, and it connects when it is first used. It is closed at exit.

    Within ``transaction.atomic()``, ``client().within(connection)`` schedules together with what the block saves.
    """
    return application().blocking()
