"""Options, URLs, and what is said of those that are wrong. No message shows a secret."""

import asyncio
import importlib.metadata
import os
import shutil
import socket
import ssl
import subprocess
import traceback

import pytest
from conftest import failure, required
from test_dynamodb import NOW, claim, registration

from pyncette.backends import from_url
from pyncette.dynamodb import backend, dynamodb_repository
from pyncette.errors import ConfigurationError, RepositoryError, StoreMissingError, TransientRepositoryError

NOWHERE = "dynamodb://local/tasks?endpoint=http%3A%2F%2F127.0.0.1%3A1"


def refused(kind, repository, secrets=("s3cret", "t0ken")):
    """The message of the error that ends the attempt to open it."""

    async def open_it():
        async with from_url(repository)() if isinstance(repository, str) else repository:
            pass

    with pytest.raises(kind) as caught:
        asyncio.run(open_it())
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    for secret in secrets:
        assert secret not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


class TestURLs:
    def test_reach_the_factory(self):
        [entry] = importlib.metadata.entry_points(group="pyncette.backends", name="dynamodb")
        assert entry.load() is backend
        made = from_url("dynamodb://eu-west-1/my_table")
        assert made.func is dynamodb_repository
        assert made.keywords == {"dynamodb_region_name": "eu-west-1", "dynamodb_table_name": "my_table"}

    def test_take_the_options_of_the_factory(self):
        url = (
            "dynamodb://eu-west-1/t.t?endpoint=http%3A%2F%2F127.0.0.1%3A25800&partition_prefix=a%3Ab&timeout=2.5"
            "&max_connections=7&skip_table_create=true"
        )
        assert from_url(url).keywords == {
            "dynamodb_region_name": "eu-west-1",
            "dynamodb_table_name": "t.t",
            "dynamodb_endpoint": "http://127.0.0.1:25800",
            "dynamodb_partition_prefix": "a:b",
            "dynamodb_timeout": 2.5,
            "dynamodb_max_connections": 7,
            "dynamodb_skip_table_create": True,
        }

    def test_need_neither_region_nor_table(self):
        assert from_url("dynamodb://").keywords == {}
        assert from_url("dynamodb:///tasks?region_name=eu-west-1").keywords == {
            "dynamodb_region_name": "eu-west-1",
            "dynamodb_table_name": "tasks",
        }

    @pytest.mark.parametrize(
        ("url", "message"),
        [
            (
                "dynamodb://key:s3cret@eu-west-1/tasks",
                "A URL of DynamoDB has no credentials, but dynamodb://key:***@eu-west-1/tasks has; set AWS_ACCESS_KEY_ID and",
            ),
            ("dynamodb://eu-west-1/a/b", "dynamodb_table_name='a/b' is not the name of a table; write 3 to 255 letters, digits,"),
            (
                "dynamodb://eu-west-1/tasks?endpiont=x",
                "Unknown option 'endpiont' in the URL dynamodb://eu-west-1/tasks; did you mean 'endpoint'?",
            ),
            ("dynamodb://eu-west-1/tasks?timeout=soon", "The option timeout='soon' of the URL is not a number"),
            ("dynamodb://eu-west-1/tasks?timeout=0", "dynamodb_timeout=0.0 is not a number of seconds above 0"),
            ("dynamodb://eu-west-1/tasks?max_connections=0", "dynamodb_max_connections=0 is not a number above 0"),
            *(
                (
                    f"dynamodb://eu-west-1/tasks?endpoint={endpoint}",
                    "The dynamodb_endpoint is not the URL of a service; write for example 'http://127.0.0.1:8000'",
                )
                for endpoint in ("127.0.0.1:8000", "http://user:s3cret%40host", "ftp://host", "http://host:x", "http://")
            ),
        ],
    )
    def test_that_make_no_sense_are_refused(self, url, message):
        assert refused(ConfigurationError, url).startswith(message)


class TestSettings:
    def test_the_region_may_come_from_the_environment(self, opened, monkeypatch):
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")

        async def test():
            async with opened(dynamodb_region_name=None) as repository:
                await repository.register(NOW, [registration("a")])

        asyncio.run(test())

    def test_no_region(self, endpoint):
        assert refused(ConfigurationError, dynamodb_repository(dynamodb_endpoint=endpoint)) == (
            "The region of DynamoDB is not known; write dynamodb://REGION/TABLE, pass dynamodb_region_name or set AWS_DEFAULT_REGION"
        )

    def test_no_region_of_this_name(self):
        assert refused(ConfigurationError, "dynamodb://eu_west/tasks") == (
            "DynamoDB can't be used with these settings: Provided region_name 'eu_west' doesn't match a supported format."
        )

    def test_no_profile_of_this_name(self, monkeypatch):
        monkeypatch.setenv("AWS_PROFILE", "mine")
        assert refused(ConfigurationError, NOWHERE) == (
            "DynamoDB can't be used with these settings: The config profile (mine) could not be found"
        )

    def test_no_credentials(self, endpoint, opened, monkeypatch):
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        assert refused(RepositoryError, opened()) == (
            f"There are no AWS credentials for DynamoDB at {endpoint}, or not all of them; "
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give the machine a role"
        )

    def test_half_of_the_credentials(self, opened, monkeypatch):
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        assert "There are no AWS credentials" in refused(RepositoryError, opened())

    def test_credentials_that_expire_are_fetched_again(self, opened, wire, monkeypatch, tmp_path):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        calls, config = tmp_path / "calls", tmp_path / "config"
        program = tmp_path / "program"
        program.write_text(
            f"#!/bin/sh\necho x >> {calls}\n"
            'echo "{\\"Version\\": 1, \\"AccessKeyId\\": \\"key\\", \\"SecretAccessKey\\": \\"s3cret\\", \\"SessionToken\\": \\"t0ken\\", '
            '\\"Expiration\\": \\"$(date -u -d "+30 seconds" +%Y-%m-%dT%H:%M:%SZ)\\"}"\n'
        )
        program.chmod(0o700)
        config.write_text(f"[default]\ncredential_process = {program}\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(config))

        async def test():
            async with opened() as repository:
                fetched = len(calls.read_text().split())
                await repository.register(NOW, [registration("a")])
                assert len(calls.read_text().split()) > fetched  # so near to their end, for each request

        asyncio.run(test())

    def test_credentials_of_a_program_that_fails(self, endpoint, opened, monkeypatch, tmp_path):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        config = tmp_path / "config"
        config.write_text("[default]\ncredential_process = sh -c 'echo s3cret >&2; exit 1'\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
        assert refused(TransientRepositoryError, opened()) == (
            f"The AWS credentials for DynamoDB at {endpoint} could not be fetched (CredentialRetrievalError); "
            "check the source they come from"
        )


class TestService:
    def test_is_not_there(self):
        assert refused(TransientRepositoryError, NOWHERE) == (
            'DynamoDB at http://127.0.0.1:1 can\'t be reached (Could not connect to the endpoint URL: "http://127.0.0.1:1/"); '
            "check the address and the network"
        )

    def test_has_no_such_address(self):
        message = refused(TransientRepositoryError, "dynamodb://local/tasks?endpoint=http%3A%2F%2Fnowhere.invalid")
        assert message.startswith("DynamoDB at http://nowhere.invalid can't be reached (Could not connect to the endpoint URL")

    def test_is_none(self):
        # Something else listens there, and hangs up. What the driver calls that depends on when it notices.
        async def hang_up(reader, writer):
            writer.close()

        async def test():
            async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
                port = server.sockets[0].getsockname()[1]
                with pytest.raises(TransientRepositoryError, match=r"can't be reached \(Co.*; check the address"):
                    async with dynamodb_repository(dynamodb_endpoint=f"http://127.0.0.1:{port}", dynamodb_region_name="local"):
                        pass

        asyncio.run(test())

    @pytest.mark.parametrize("scheme", ["https", "HTTPS"])
    def test_shows_a_certificate_which_is_checked(self, tmp_path, monkeypatch, scheme):
        if shutil.which("openssl") is None:
            required("openssl", "install it")
        key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
        made = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
        made += f" -addext subjectAltName=DNS:localhost -keyout {key} -out {certificate}"
        subprocess.run(made.split(), check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        asked = []

        async def answers(reader, writer):
            asked.append(await reader.readline())
            writer.write(b"HTTP/1.1 500 So be it\r\nContent-Length: 0\r\n\r\n")
            writer.close()

        async def test(expected):
            async with await asyncio.start_server(answers, "127.0.0.1", 0, ssl=context) as server:
                url = f"{scheme}://localhost:{server.sockets[0].getsockname()[1]}"
                with pytest.raises(TransientRepositoryError, match=expected):
                    async with dynamodb_repository(dynamodb_endpoint=url, dynamodb_region_name="local"):
                        pass

        asyncio.run(test("certificate verify failed"))
        assert not asked
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        asyncio.run(test("HTTP 500"))
        assert asked

    def test_never_answers(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            url = f"dynamodb://local/tasks?endpoint=http%3A%2F%2F127.0.0.1%3A{port}&timeout=0.5"
            assert refused(TransientRepositoryError, url) == (
                f"DynamoDB at http://127.0.0.1:{port} did not answer within 0.5 s; check the network, or raise dynamodb_timeout"
            )

    @pytest.mark.parametrize(
        ("code", "said"),
        [
            ("UnrecognizedClientException", "The security token included in the request is invalid: t0ken"),
            ("InvalidSignatureException", "The Canonical String should have been 'POST x-amz-security-token:t0ken'"),
            ("ExpiredTokenException", "The security token included in the request is expired"),
        ],
    )
    def test_refuses_the_credentials_and_may_quote_them(self, endpoint, opened, wire, code, said):
        wire.instead = lambda operation, body: failure(code, said)
        assert refused(RepositoryError, opened()) == (
            f"DynamoDB at {endpoint} refuses the AWS credentials ({code}); check them, and the clock of this machine"
        )

    def test_denies_a_request(self, endpoint, opened, wire):
        said = "User: arn:aws:iam::1:user/u is not authorized to perform: dynamodb:DescribeTable"
        wire.instead = lambda operation, body: failure("AccessDeniedException", said)
        assert refused(RepositoryError, opened()) == (
            f"DynamoDB at {endpoint} denies a request (DescribeTable: AccessDeniedException: {said}); "
            "allow it in the policy of the user or role"
        )

    def test_refuses_for_other_reasons(self, endpoint, opened, wire):
        wire.instead = lambda operation, body: failure("ValidationException", "so be it\nor not")
        assert refused(RepositoryError, opened()) == (
            f"DynamoDB at {endpoint} refused a request (DescribeTable: ValidationException: so be it or not)"
        )

    def test_has_no_room_left_in_a_partition(self, endpoint, opened, wire):
        async def test():
            async with opened() as repository:
                wire.instead = lambda operation, body: (
                    failure("ItemCollectionSizeLimitExceededException") if operation == "PutItem" else None
                )
                with pytest.raises(RepositoryError) as caught:
                    await repository.register(NOW, [registration("a")])
                assert str(caught.value) == (
                    f"A partition in DynamoDB at {endpoint} is full (PutItem: ItemCollectionSizeLimitExceededException: "
                    "so be it); remove tasks, or spread them over more partitions"
                )

        asyncio.run(test())


class TestTables:
    def test_that_are_missing_and_not_to_be_created(self, endpoint, opened, table):
        assert refused(StoreMissingError, opened(dynamodb_skip_table_create=True)) == (
            f"There is no table '{table}' in DynamoDB at {endpoint}; create it, or leave out dynamodb_skip_table_create"
        )

    def test_that_are_removed_meanwhile(self, endpoint, opened, table, raw):
        async def test():
            async with opened() as repository:
                raw.delete_table(TableName=table)
                with pytest.raises(RepositoryError) as caught:
                    await claim(repository)
                assert str(caught.value) == (
                    f"There is no table '{table}' in DynamoDB at {endpoint}; create it, or restart to have it created"
                )

        asyncio.run(test())

    @pytest.mark.parametrize("what", ["keys", "type", "no index", "projection"])
    def test_that_are_others(self, endpoint, opened, table, raw, what):
        types = {"partition_id": "S", "task_id": "S", "ready_at": "N" if what == "type" else "S"}
        keys = [{"AttributeName": "partition_id", "KeyType": "HASH"}, {"AttributeName": "task_id", "KeyType": "RANGE"}]
        index = {
            "IndexName": "ready_at",
            "KeySchema": [keys[0], {"AttributeName": "ready_at", "KeyType": "RANGE"}],
            "Projection": {"ProjectionType": "KEYS_ONLY" if what == "projection" else "ALL"},
        }
        if what == "keys":
            types = {"id": "S"}
            keys = [{"AttributeName": "id", "KeyType": "HASH"}]
        elif what == "no index":
            del types["ready_at"]
        raw.create_table(
            TableName=table,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": kind} for name, kind in types.items()],
            KeySchema=keys,
            **({} if what in ("keys", "no index") else {"LocalSecondaryIndexes": [index]}),
        )
        assert refused(RepositoryError, opened()) == (
            f"The table '{table}' in DynamoDB at {endpoint} has other keys or indexes than Pyncette's; choose another dynamodb_table_name"
        )

    @pytest.mark.parametrize("create", [True, False])
    def test_that_are_those_of_pyncette_1(self, endpoint, opened, table, raw, create):
        async def create_it():
            async with opened():
                pass

        asyncio.run(create_it())
        raw.delete_item(TableName=table, Key={"partition_id": {"S": "pyncette"}, "task_id": {"S": "format"}})
        old = {
            "partition_id": {"S": ":reminder"},
            "task_id": {"S": "reminder:ada"},
            "ready_at": {"S": "2026-03-01T12:00:00+00:00_reminder:ada"},
            "execute_after": {"S": "2026-03-01T12:00:00+00:00"},
            "locked_by": {"NULL": True},
            "locked_until": {"S": ""},
            "version": {"N": "3"},
        }
        raw.put_item(TableName=table, Item=old)
        assert refused(RepositoryError, opened(dynamodb_skip_table_create=not create)) == (
            f"The table '{table}' in DynamoDB at {endpoint} has tasks of Pyncette 1, which this version can't read; "
            "choose another dynamodb_table_name, and schedule dynamic tasks there again"
        )
        assert raw.scan(TableName=table)["Items"] == [old]

    def test_may_be_used_without_the_permission_to_scan_them(self, opened, wire):
        wire.instead = lambda operation, body: failure("AccessDeniedException") if operation == "Scan" else None

        async def test():
            async with opened() as repository:
                await repository.register(NOW, [registration("a")])

        asyncio.run(test())


def test_no_secret_is_in_a_repr(opened):
    async def test():
        async with opened() as repository:
            for each in (repository, repository._table, opened()):
                assert os.environ["AWS_SECRET_ACCESS_KEY"] not in repr(each)

    asyncio.run(test())
