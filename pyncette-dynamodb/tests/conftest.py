"""A table of one's own on the server that the environment names, a look behind Pyncette's back, and requests that go wrong."""

import collections
import contextlib
import json
import os
import uuid

import boto3
import pytest
from aiobotocore.awsrequest import AioAWSResponse
from aiobotocore.httpsession import AIOHTTPSession

from pyncette.backends import BackendURL
from pyncette.dynamodb import dynamodb_repository


def required(what, how):
    """Skip for want of ``what``; where the tests are to prove something, that is a failure."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(f"needs {what}; {how}")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Nothing of this machine's own settings, and never the real service."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    settings = {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "s3cret", "EC2_METADATA_DISABLED": "true"}
    files = {"CONFIG_FILE": os.devnull, "SHARED_CREDENTIALS_FILE": os.devnull}
    for name, value in {**settings, **files}.items():
        monkeypatch.setenv(f"AWS_{name}", value)


@pytest.fixture(scope="session")
def server():
    url = os.environ.get("PYNCETTE_TEST_DYNAMODB_URL")
    if not url:
        required("a DynamoDB Local", "set PYNCETTE_TEST_DYNAMODB_URL=dynamodb://local/pyncette?endpoint=http%3A%2F%2FHOST%3APORT")
    return BackendURL.parse(url)


@pytest.fixture(scope="session")
def endpoint(server):
    return server.options["endpoint"]


@pytest.fixture
def raw(server, endpoint):
    """A plain client of the driver."""
    with contextlib.closing(boto3.client("dynamodb", endpoint_url=endpoint, region_name=server.hosts)) as client:
        yield client


@pytest.fixture
def table(raw):
    """The name of a table that is not there yet, and that is removed at the end."""
    name = f"test-{uuid.uuid4().hex}"
    yield name
    with contextlib.suppress(raw.exceptions.ResourceNotFoundException):
        raw.delete_table(TableName=name)


@pytest.fixture
def opened(server, endpoint, table):
    """Opens a repository on the table."""

    def on(**options):
        settings = {"dynamodb_endpoint": endpoint, "dynamodb_region_name": server.hosts, "dynamodb_table_name": table, **options}
        return dynamodb_repository(**settings)

    return on


class Body:
    raw_headers = ()  # where older drivers look

    def __init__(self, content):
        self._content = content

    async def read(self):
        return self._content


def answer(content, status=200):
    """An answer that the service did not give."""
    return lambda request: AioAWSResponse(request.url, status, {}, Body(json.dumps(content).encode()))


def failure(code, message="so be it", status=400):
    """What the service answers when it refuses or fails."""
    return answer({"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": message}, status)


class Wire:
    """The requests that were sent, and answers instead of the service's."""

    def __init__(self):
        self.sent = []
        #: ``(operation, request)`` -> None, or what makes an answer of the request
        self.instead = lambda operation, body: None
        #: the same, after the service has done what was asked
        self.afterwards = lambda operation, body: None

    def counts(self):
        counts = dict(collections.Counter(operation for operation, _ in self.sent))
        self.sent.clear()
        return counts


@pytest.fixture
def wire(monkeypatch):
    wire = Wire()
    original = AIOHTTPSession.send

    async def send(session, request):
        target, body = request.headers["X-Amz-Target"], json.loads(request.body)
        operation = (target.decode() if isinstance(target, bytes) else target).rpartition(".")[2]
        wire.sent.append((operation, body))
        if answer := wire.instead(operation, body):
            return answer(request)
        response = await original(session, request)
        if answer := wire.afterwards(operation, body):
            return answer(request)
        return response

    monkeypatch.setattr(AIOHTTPSession, "send", send)
    return wire
