"""The app configuration that Django looks for."""

import logging
from typing import Any

from django.apps import AppConfig
from django.core.signals import request_started

from pyncette.errors import PyncetteError

logger: logging.Logger = logging.getLogger(__name__)


class PyncetteConfig(AppConfig):  # type: ignore[misc, unused-ignore]
    name = "pyncette.django"
    label = "pyncette"

    def ready(self) -> None:
        request_started.connect(_connect, dispatch_uid=__name__)


def _connect(**signal: Any) -> None:
    """Connect before the first request opens a transaction, for whose end creating a table in SQLite would wait."""
    from pyncette.django import client

    request_started.disconnect(dispatch_uid=__name__)
    try:
        client().open()
    except PyncetteError as error:
        logger.warning("Can't connect yet; will try again when something is scheduled: %s", error)
