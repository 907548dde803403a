"""A web server of threads that only schedules, and a worker beside it that runs what is scheduled.

Run it:      python examples/wsgi_app.py, and in a second terminal: pyncette run examples/wsgi_app.py:scheduler
You see:     Nothing yet. In a third terminal:
                 curl -X PUT localhost:8000/ada -d "drink water"
             Three seconds later the worker reminds ada. Until then `curl localhost:8000/` lists her, and
                 curl -X DELETE localhost:8000/ada
             lets her in peace.
Then try:    The same `web` behind a real server: gunicorn --chdir examples --threads 8 --workers 2 wsgi_app:web, with --preload or without.
End it:      Ctrl-C in both. Delete wsgi_app.db to start over.
"""

import logging
import os
import socketserver
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from wsgiref.simple_server import WSGIServer, make_server

from pyncette import ConfigurationError, Context, Pyncette, PyncetteError

logger = logging.getLogger("wsgi_app")

scheduler = Pyncette("sqlite:///wsgi_app.db")
#: For all threads, and connected when one of them first uses it: so it may be made before a server forks its workers.
client = scheduler.blocking(timeout=timedelta(seconds=10))


@scheduler.dynamic_task()
async def remind(context: Context) -> None:
    logger.info("remind: %r, %r", context.name, context.args["text"])  # %r: both come from users


def web(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    try:
        status, text = respond(environ["REQUEST_METHOD"], environ["PATH_INFO"].lstrip("/"), environ)
    except ConfigurationError as error:
        status, text = "400 Bad Request", str(error)
    except PyncetteError as error:  # the store is unreachable: the server continues, and so do the calls once the store is back
        status, text = "503 Service Unavailable", str(error)
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{text}\n".encode()]


def respond(method: str, name: str, environ: dict[str, Any]) -> tuple[str, str]:
    match method:
        case "PUT":
            text = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)).decode()
            client.schedule_task(remind, name, execute_at=datetime.now(UTC) + timedelta(seconds=3), text=text)
            return "200 OK", f"{name} will be reminded"
        case "DELETE" if client.unschedule_task(remind, name):
            return "200 OK", f"{name} will not be reminded"
        case "GET" if not name:
            return "200 OK", "\n".join(task.name for task in client.list_tasks(remind).tasks)
    return "404 Not Found", f"{name} is not to be reminded"


class Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


if __name__ == "__main__":
    with make_server("127.0.0.1", int(os.environ.get("PORT", "8000")), web, Server) as server, client:
        print(f"Serving on port {server.server_port}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("Ended", flush=True)
