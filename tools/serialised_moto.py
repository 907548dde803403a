"""moto's DynamoDB, one request at a time: ``python serialised_moto.py PORT``.

moto handles requests in threads, and takes no lock between the condition of a write and the write: of several that compete, more
than one may succeed. The real service never lets them.
"""

import io
import logging
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple

LOCK = threading.Lock()
moto = DomainDispatcherApplication(create_backend_app)


def application(environment: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    # Read first: nobody is to wait for a client who is slow to send.
    environment["wsgi.input"] = io.BytesIO(environment["wsgi.input"].read(int(environment.get("CONTENT_LENGTH") or 0)))
    with LOCK:
        return list(moto(environment, start_response))


logging.getLogger("werkzeug").setLevel(logging.ERROR)
run_simple("127.0.0.1", int(sys.argv[1]), application, threaded=True, request_handler=MotoRequestHandler)
