"""Servers of the tests' own, for what no other test could live with: settings, certificates, nobody else who writes."""

import contextlib
import importlib.util
import sys
import tempfile
from pathlib import Path

import trustme

from pyncette.backends import BackendURL

_TOOLS = Path(__file__).parents[2] / "tools" / "servers.py"


def _tools():
    spec = importlib.util.spec_from_file_location("servers", _TOOLS)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


class Place:
    """A server, and the folder of its socket and of certificates."""

    def __init__(self, url, folder):
        self.folder = folder
        self.port = BackendURL.parse(url).port(5432)

    def url(self, host="localhost", database="pyncette", **options):
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"postgresql://pyncette:pyncette@{host}:{self.port}/{database}?{query}"

    def file(self, name):
        return str(self.folder / f"{name}.pem")


@contextlib.contextmanager
def own_server(settings, access):
    """A server with more settings, and with ``access`` for its pg_hba.conf."""
    tools = _tools()
    with tempfile.TemporaryDirectory(prefix="pyncette-", dir=tools._data()) as name:
        folder = Path(name)
        folder.chmod(0o755)
        with tools._alone():
            server = tools.postgres(folder)
        authority = trustme.CA()
        for who in ("localhost", "client"):
            certificate = authority.issue_cert(who, common_name="pyncette")
            certificate.private_key_pem.write_to_path(folder / f"{who}-key.pem")
            certificate.cert_chain_pems[0].write_to_path(folder / f"{who}.pem")
        authority.cert_pem.write_to_path(folder / "ca.pem")
        trustme.CA().cert_pem.write_to_path(folder / "other-ca.pem")
        [process] = server.processes
        for key in folder.glob("*-key.pem"):
            key.chmod(0o600)
        if process.user is not None:
            tools.shutil.chown(folder / "localhost-key.pem", process.user)
        (folder / "access").write_text(access)
        settings = {"unix_socket_directories": folder, "hba_file": folder / "access", **settings}
        process.command = [*process.command, *(f"--{name}={value}" for name, value in settings.items())]
        try:
            server.start()
            yield Place(server.url, folder)
        finally:
            server.stop()
