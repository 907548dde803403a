"""Cancellation at a chosen await of a call: the n-th time that it waits for something."""

import asyncio
from collections.abc import Coroutine, Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

__all__ = ["Interrupted", "interrupt"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Interrupted(Generic[T]):
    """How an interrupted call ended."""

    #: False once there is no such await: then the call has run to its end.
    reached: bool
    cancelled: bool
    result: T | None


async def interrupt(call: Coroutine[Any, Any, T], at: int, *, answered: bool) -> Interrupted[T]:
    """Run ``call`` in a task of its own and cancel it at its await number ``at``, counted from 0.

    :param answered: cancel when what it waits for is there, but before the call has seen it; else while it waits.
    """
    stepper = _Stepper(call, at, answered)
    task = asyncio.create_task(_run(stepper))
    try:
        result = await task
    except asyncio.CancelledError:
        return Interrupted(stepper.reached, True, None)
    return Interrupted(stepper.reached, False, result)


async def _run(stepper: "_Stepper[T]") -> T:
    return await stepper


class _Stepper(Generic[T]):
    """Hands on what a coroutine waits for to the event loop, and counts."""

    def __init__(self, call: Coroutine[Any, Any, T], at: int, answered: bool) -> None:
        self._call = call
        self._at = at
        self._answered = answered
        self.reached = False

    def __await__(self) -> Generator[Any, Any, T]:
        task = asyncio.current_task()
        assert task is not None
        steps = self._call.__await__()
        count = 0
        try:
            awaited = next(steps)
            while True:
                if count == self._at:
                    self.reached = True
                    if self._answered and isinstance(awaited, asyncio.Future):
                        # Called before the task is woken, because the task is going to wait for it only after this.
                        awaited.add_done_callback(lambda _: task.cancel())
                    else:
                        # The task is cancelled as soon as it waits.
                        task.cancel()
                count += 1
                try:
                    yield awaited
                except BaseException as error:
                    awaited = steps.throw(error)
                else:
                    awaited = next(steps)
        except StopIteration as stop:
            result: T = stop.value
            return result
