"""Access control: users, tokens against forged requests, and the headers of every answer."""

import asyncio
import base64
import hashlib
import hmac
import inspect
import logging
import os
import secrets
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request

from pyncette import ConfigurationError

__all__ = ["HEADERS", "Authorize", "Guard", "RefusedError"]

#: Called with the request and the permission ("view", "arguments", or an action such as "pause"); returns the name of the user, True, or False.
Authorize = Callable[[Request, str], str | bool | Awaitable[str | bool | None] | None]

logger: logging.Logger = logging.getLogger(__name__)

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not "no-referrer", with which browsers send forms without their origin.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_LOCAL = {"localhost", "127.0.0.1", "::1"}
_USER, _PASSWORD, _SECRET = "PYNCETTE_DASHBOARD_USER", "PYNCETTE_DASHBOARD_PASSWORD", "PYNCETTE_DASHBOARD_SECRET"
_FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")
#: How long ``authorize`` may take (seconds).
_ANSWERS_WITHIN = 5.0


class RefusedError(Exception):
    """A request is refused, with this status and for this reason."""

    def __init__(self, status: int, reason: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.headers: dict[str, str] = headers or {}


def credentials() -> tuple[str, str] | None:
    """User and password from the environment; None if there are none."""
    user, password = os.environ.get(_USER), os.environ.get(_PASSWORD)
    if bool(user) is not bool(password):
        raise ConfigurationError(f"Only one of {_USER} and {_PASSWORD} is set; set both, or neither")
    return (user, password) if user and password else None


class Guard:
    """Decides about each request.

    :param local_user: the name of viewers on this machine, if no login is required.
    """

    def __init__(self, authorize: Authorize | None, local_user: str) -> None:
        self._authorize = authorize
        self._credentials = None if authorize is not None else credentials()
        self._local_user = local_user
        self._secret = os.environ.get(_SECRET, "").encode() or secrets.token_bytes(32)

    async def user(self, request: Request, action: str) -> str:
        """The name of the user, for the audit log; raises RefusedError."""
        if self._authorize is not None:
            allowed = await self._ask(self._authorize, request, action)
            if not allowed:
                raise RefusedError(403, "You are not allowed to do this.")
            return allowed if isinstance(allowed, str) else self._local_user
        if self._credentials is not None:
            return self._basic(request, self._credentials)
        peer = request.client.host if request.client else ""
        # Proxies that forward nothing about the viewer, like nginx by default, use HTTP/1.0.
        proxy = request.scope.get("http_version") == "1.0" or any(each in request.headers for each in _FORWARDED)
        if peer not in {*_LOCAL, ""} or _host(f"//{request.headers.get('host', '')}") not in _LOCAL or proxy:
            raise RefusedError(
                403,
                f"Without a password, the dashboard can only be used on its own machine. Set {_USER} and {_PASSWORD}, or pass authorize=.",
            )
        return self._local_user

    async def _ask(self, authorize: Authorize, request: Request, action: str) -> str | bool | None:
        try:
            allowed = authorize(request, action)
            async with asyncio.timeout(_ANSWERS_WITHIN):
                return await allowed if inspect.isawaitable(allowed) else allowed
        except HTTPException as error:
            raise RefusedError(error.status_code, error.detail, dict(error.headers or {})) from error
        except TimeoutError as error:
            raise RefusedError(503, "Who may do this could not be found out in time; nothing was changed.") from error
        except Exception as error:
            logger.exception("authorize= of the dashboard failed for %r", action)
            raise RefusedError(500, "Who may do this could not be found out; nothing was changed. The log says why.") from error

    def _basic(self, request: Request, expected: tuple[str, str]) -> str:
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        try:
            user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
        except ValueError:
            user = password = ""
        matches = [hmac.compare_digest(*map(str.encode, pair)) for pair in zip((user, password), expected, strict=True)]
        if scheme.lower() != "basic" or not all(matches):
            raise RefusedError(401, "User and password, please.", {"WWW-Authenticate": 'Basic realm="pyncette", charset="UTF-8"'})
        return user

    # --- forged requests --------------------------------------------------------------------------------------------------

    def token(self, session: str, user: str) -> str:
        """The token that forms of this session must send."""
        return self.sign(f"token\0{session}\0{user}")

    def sign(self, text: str) -> str:
        return hmac.new(self._secret, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()

    def check_form(self, request: Request, session: str | None, user: str, token: str) -> None:
        """Raise RefusedError unless the request comes from one of the dashboard's forms."""
        origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
        # The browser's own header is right even behind a proxy that uses another host name.
        if site is None and origin is not None:
            site = "same-origin" if origin.partition("://")[2].lower() == request.headers.get("host", "").lower() else origin
        if site not in (None, "same-origin"):
            raise RefusedError(403, "The request comes from another site; nothing was changed.")
        if not session or not hmac.compare_digest(self.token(session, user).encode(), token.encode("utf-8", "surrogatepass")):
            raise RefusedError(
                403, "The form is too old, or was not made here; nothing was changed. Go back, reload, and try again."
            )


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
