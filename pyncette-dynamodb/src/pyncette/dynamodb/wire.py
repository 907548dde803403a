"""Requests to DynamoDB over the driver's connections, with its credentials and signatures, but with JSON encoded and decoded here.

For each request, the driver's client evaluates endpoint rules and the description of the whole service. That takes longer than the service
itself, and these few kinds of requests don't need it.
"""

import contextlib
import functools
import json
import os
from collections.abc import AsyncIterator, Mapping
from typing import Any

from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import AioSession, get_session
from botocore import exceptions as driver
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.loaders import Loader, create_loader
from botocore.utils import get_environ_proxies, validate_region_name

__all__ = ["Wire", "connected"]


class Wire:
    """Signed requests to one endpoint."""

    def __init__(self, http: AIOHTTPSession, credentials: Any, url: str, region: str) -> None:
        self._http = http
        self._credentials = credentials
        self._url = url.rstrip("/") + "/"
        self.region = region

    async def post(self, operation: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Send a request once, and return the answer; raises the driver's errors, ``ClientError`` if the service refuses."""
        headers = {
            "X-Amz-Target": f"DynamoDB_20120810.{operation}",
            "Content-Type": "application/x-amz-json-1.0",
            "User-Agent": "pyncette-dynamodb",
        }
        request = AWSRequest("POST", self._url, headers, json.dumps(body).encode())
        # may fetch them again, because the credentials of a role expire after some hours
        SigV4Auth(await self._credentials.get_frozen_credentials(), "dynamodb", self.region).add_auth(request)
        response = await self._http.send(request.prepare())
        content = await response.content
        try:
            answer = json.loads(content)
        except ValueError:
            answer = None
        if response.status_code == 200 and isinstance(answer, dict):
            return answer
        status = response.status_code if isinstance(answer, dict) else max(500, response.status_code)  # from something in between
        said = answer if isinstance(answer, dict) else {"__type": f"HTTP {response.status_code}", "message": "no JSON"}
        error = {
            "Code": str(said.get("__type", status)).rpartition("#")[2],
            "Message": str(said.get("message", said.get("Message", ""))),
        }
        raise driver.ClientError({"Error": error, "ResponseMetadata": {"HTTPStatusCode": status}}, operation)  # type: ignore[typeddict-item]


@contextlib.asynccontextmanager
async def connected(*, endpoint: str | None, region: str | None, timeout: float, max_connections: int) -> AsyncIterator[Wire]:
    """Everything needed for requests, without contacting the service. Raises the driver's errors."""
    session = get_session()
    session.register_component("data_loader", _loader(session.get_config_variable("data_path")))
    url, region = await _address(session, endpoint, region)
    credentials = await session.get_credentials()
    if credentials is None:
        raise driver.NoCredentialsError
    settings: Mapping[str, Any] = {  # of these, the stubs know less than the driver
        # Reading the certificates of authorities takes most of the time of connecting, and is not needed without TLS.
        "verify": not url.lower().startswith("http:")
        and (session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE") or True),
        "timeout": (timeout / 2, timeout),
    }
    http = AIOHTTPSession(
        **settings,
        proxies=get_environ_proxies(url),
        max_pool_connections=max_connections,
        # after a timeout, older connections are not used either, because they are probably dead, too
        connector_args={"keepalive_timeout": min(12, 0.9 * timeout)},
    )
    async with http:
        yield Wire(http, credentials, url, region)


async def _address(session: AioSession, endpoint: str | None, region: str | None) -> tuple[str, str]:
    """The URL and the region, by all the rules and settings of AWS."""
    if endpoint and region:  # nothing is left to the rules
        validate_region_name(region)
        return endpoint, region
    # it sends no request, so it looks up no credentials
    config = AioConfig(signature_version="v4", parameter_validation=False)
    async with session.create_client("dynamodb", endpoint_url=endpoint, region_name=region, config=config) as client:
        return client.meta.endpoint_url, client.meta.region_name


@functools.cache
def _loader(data_path: str | None) -> Loader:
    """Loads and caches the descriptions of AWS services, which would otherwise take half the time of connecting."""
    return create_loader(data_path)
