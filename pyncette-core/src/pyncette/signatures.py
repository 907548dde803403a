"""Checks that users' functions can be called as Pyncette calls them."""

import contextlib
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from pyncette.errors import ConfigurationError
from pyncette.values import shown

__all__ = [
    "IN_THREAD",
    "check_async_generator_function",
    "check_body",
    "check_coroutine_function",
    "fixture_arguments",
    "is_coroutine_function",
    "runs_in_thread",
]


#: The attribute that marks a coroutine function which runs a plain function in a thread.
IN_THREAD = "_pyncette_in_thread"


def is_coroutine_function(function: object) -> bool:
    """Whether calling ``function`` returns a coroutine, including through :func:`functools.partial` and ``__call__``."""
    return _is(inspect.iscoroutinefunction, function)


def check_coroutine_function(function: Any, what: str, *parameters: str) -> None:
    """Raise ConfigurationError, which begins with ``what``, unless ``await function(*parameters)`` can be written."""
    signature = f"({', '.join(parameters)})"
    write = f"write 'async def {_name(function)}{signature}'"
    _check_kind(function, what, write)
    if not is_coroutine_function(function):
        inner = _unwrapped(function)
        if _is(inspect.isasyncgenfunction, inner):
            problem = f"is an asynchronous generator function; {write} without a 'yield'"
        elif inner is not function and is_coroutine_function(inner):
            problem = "is wrapped by a decorator that does not support coroutine functions; use one whose wrapper is an 'async def'"
        else:
            problem = f"is not a coroutine function; {write}, and run blocking code with 'await asyncio.to_thread(...)'"
        raise ConfigurationError(f"{what} {problem}")
    _check_parameters(function, what, parameters, f"it is called with {signature}; {write}")


def check_body(function: Any, what: str) -> None:
    """Raise ConfigurationError, which begins with ``what``, unless ``function`` can be called with a context; ``async def`` or ``def``."""
    write = f"write 'async def {_name(function)}(context)', or 'def' for blocking code"
    _check_kind(function, what, write)
    inner = _unwrapped(function)
    if is_coroutine_function(function) or is_coroutine_function(inner) or _is(inspect.isasyncgenfunction, inner):
        check_coroutine_function(function, what, "context")
        return
    if _is(inspect.isgeneratorfunction, inner):
        raise ConfigurationError(f"{what} is a generator function, so calling it would run nothing; {write}, without a 'yield'")
    _check_parameters(function, what, ["context"], f"it is called with (context); {write}")


def runs_in_thread(function: Any) -> bool:
    """Whether a body is a plain function, which may block, or wraps one, as :attr:`IN_THREAD` says."""
    return not is_coroutine_function(function) or getattr(function, IN_THREAD, False) is True


def check_async_generator_function(function: Any, what: str) -> None:
    """Raise ConfigurationError, which begins with ``what``, unless ``function`` can be a fixture."""
    write = f"write 'async def {_name(function)}(app_context)' with one 'yield'"
    _check_kind(function, what, write)
    if getattr(function, "__code__", None) is _ASYNCCONTEXTMANAGER:
        raise ConfigurationError(f"{what} is decorated with @asynccontextmanager already; remove that decorator")
    # A wrapper that passes the generator on is fine, too.
    if not _is(inspect.isasyncgenfunction, _unwrapped(function)):
        raise ConfigurationError(f"{what} is not an asynchronous generator function; {write}")
    _check_parameters(
        function, what, fixture_arguments(function, "app_context"), f"it is called with app_context, or with nothing; {write}"
    )


def fixture_arguments(fixture: Callable[..., Any], app_context: Any) -> Sequence[Any]:
    """The arguments for ``fixture``: ``app_context`` if it has a parameter without a default."""
    parameters = list(inspect.signature(fixture).parameters.values())
    wanted = [each for each in parameters if each.name == "app_context" or each.default is each.empty]
    return [app_context] if any(each.kind is not each.VAR_KEYWORD for each in wanted) else []


def _check_kind(function: Any, what: str, write: str) -> None:
    if isinstance(function, staticmethod | classmethod):
        kind = type(function).__name__
        raise ConfigurationError(f"{what} is a {kind} object; declare it below @{kind}, or outside of the class")
    if isinstance(function, type):
        raise ConfigurationError(f"{what} is the class {function.__name__}; pass an instance that can be called, or {write}")
    if not callable(function):
        raise ConfigurationError(f"{what} is {shown(function)}, which can't be called; {write}")


def _check_parameters(function: Any, what: str, arguments: Sequence[str], otherwise: str) -> None:
    try:
        # the signature of the wrapper, because a decorator may provide arguments
        signature = inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):  # some functions written in C have no signature
        return
    if inspect.isfunction(function):
        owner = function.__qualname__.split(".")[-2:-1]
        if owner not in ([], ["<locals>"]) and next(iter(inspect.signature(function).parameters), None) in ("self", "cls"):
            raise ConfigurationError(
                f"{what} is a method without its object; pass that of an object, as {owner[0]}().{function.__name__}, outside of the class"
            )
    try:
        signature.bind(*arguments)
    except TypeError:
        bare = [each.replace(annotation=each.empty, default=each.empty) for each in signature.parameters.values()]
        has = f"the parameters {inspect.Signature(bare)}" if bare else "no parameters"
        raise ConfigurationError(f"{what} has {has}, but {otherwise}") from None


def _is(check: Callable[[Any], bool], function: Any) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return check(function) or check(getattr(function, "__call__", None))  # noqa: B004


def _unwrapped(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.unwrap(function) if inspect.isroutine(function) else function


def _name(function: object) -> str:
    name = getattr(function, "__name__", None)
    return name if isinstance(name, str) and name.isidentifier() else "name"


@contextlib.asynccontextmanager
async def _example() -> AsyncIterator[None]:
    yield


_ASYNCCONTEXTMANAGER = _example.__code__
