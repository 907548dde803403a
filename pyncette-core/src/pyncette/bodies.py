"""The calls that a plain function as a body can make from its thread."""

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from pyncette.app_context import PyncetteContext
from pyncette.blocking import ConnectedCalls, check_no_loop
from pyncette.client import Client

__all__ = ["CallsFromBody"]

_R = TypeVar("_R")


class CallsFromBody(ConnectedCalls):
    """The calls of ``context.app_context`` for a body in a thread, each of which returns when it is done."""

    def __init__(self, app_context: PyncetteContext) -> None:
        self._app_context = app_context

    def run(self, function: Callable[[], Coroutine[Any, Any, _R]]) -> _R:
        """The result of the coroutine function ``function`` in the application's event loop, where asynchronous fixtures live."""
        check_no_loop()
        return self._app_context.threads.call(function)

    def _call(self, function: Callable[[Client], Coroutine[Any, Any, _R]]) -> _R:
        return self.run(lambda: function(self._app_context))

    def shutdown(self) -> None:
        """Begin to end the application, as :meth:`PyncetteContext.shutdown` does."""

        async def shutdown(client: Client) -> None:
            self._app_context.shutdown()

        self._call(shutdown)
