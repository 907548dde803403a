"""Servers of the tests' own, for what no other test could live with: settings, certificates. And who stands between them and us."""

import asyncio
import contextlib
import datetime as dt
import importlib.util
import ipaddress
import os
import sys
import tempfile
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pyncette.backends import BackendURL

_TOOLS = Path(__file__).parents[2] / "tools" / "servers.py"
_SSL = 1 << 11  # of the capabilities in a server's greeting


@contextlib.contextmanager
def own_server(kind):
    """A server with TLS, and the folder of its files: `ca.pem`, `client.pem`, `client-key.pem`, `mysql.sock` and `other-ca.pem`."""
    spec = importlib.util.spec_from_file_location("servers", _TOOLS)
    tools = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = tools  # dataclasses look there
    spec.loader.exec_module(tools)
    with tempfile.TemporaryDirectory(prefix="pyncette-", dir=tools._data()) as name:
        folder = Path(name)
        folder.chmod(0o755)
        make_certificates(folder)
        try:
            with tools._alone():
                server = getattr(tools, kind)(folder)
        except tools.CannotStart as error:
            (pytest.fail if os.environ.get("CI") else pytest.skip)(f"needs a server of its own: {error}")
        [process] = server.processes
        process.command = [
            *process.command,
            *(
                f"--ssl-{name}={folder / file}"
                for name, file in {"ca": "ca.pem", "cert": "server.pem", "key": "server-key.pem"}.items()
            ),
            f"--socket={folder / 'mysql.sock'}",
        ]
        try:
            server.start()
            yield BackendURL.parse(server.url), folder
        finally:
            server.stop()


def make_certificates(folder):
    """An authority, the certificates of a server and of a client, and an authority that has nothing to do with them."""
    for name in ("ca", "other-ca"):
        key, certificate = _certified(name)
        _write(folder, name, key, certificate)
        if name == "ca":
            for whose in ("server", "client"):
                _write(folder, whose, *_certified(whose, key, certificate))
    (folder / "locked-key.pem").write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"battery-horse")
        )
    )


def _certified(name, by=None, authority=None):
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.subject if authority else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key((by or key).public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
    )
    return key, builder.sign(by or key, hashes.SHA256())


def _write(folder, name, key, certificate):
    pem = serialization.Encoding.PEM
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(pem))
    (folder / f"{name}-key.pem").write_bytes(key.private_bytes(pem, *plain))


class Stripper:
    """A man in the middle: he tells clients that the server has no TLS, and keeps what they send."""

    def __init__(self, host, port):
        self._target = host, port
        self.sent = b""

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()

    async def _accept(self, reader, writer):
        server_reader, server_writer = await asyncio.open_connection(*self._target)
        greeting = bytearray(await server_reader.read(1 << 16))
        # The header, the protocol's version, the server's version, its thread, 8 bytes of salt and one that fills.
        at = greeting.index(b"\0", 5) + 1 + 4 + 8 + 1
        greeting[at : at + 2] = (int.from_bytes(greeting[at : at + 2], "little") & ~_SSL).to_bytes(2, "little")
        writer.write(greeting)

        async def answers():
            while data := await server_reader.read(1 << 16):
                writer.write(data)

        answering = asyncio.create_task(answers())
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                self.sent += data
                server_writer.write(data)
        answering.cancel()
        server_writer.close()
        writer.close()
