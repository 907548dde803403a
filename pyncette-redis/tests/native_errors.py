"""What Redis and its driver raise, for the fault scenarios: ``--worker=--plugin=.../native_errors.py:offer --fault=driver=error%30``."""

import itertools

from redis import exceptions
from redis.asyncio.connection import AbstractConnection

from pyncette_conformance.faults.native import INJECTORS

__all__ = ["ERRORS", "offer"]

ERRORS = [
    exceptions.ConnectionError("Connection closed by server."),
    exceptions.ConnectionError("max number of clients reached"),
    exceptions.TimeoutError("Timeout connecting to server"),
    exceptions.BusyLoadingError("Redis is loading the dataset in memory"),
    exceptions.ReadOnlyError("You can't write against a read only replica."),
    exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
    exceptions.MasterDownError("Link with MASTER is down and replica-serve-stale-data is set to 'no'."),
    exceptions.ClusterDownError("CLUSTERDOWN The cluster is down"),
    exceptions.TryAgainError("TRYAGAIN Multiple keys request during rehashing of slot"),
    exceptions.ResponseError("MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk."),
    exceptions.ResponseError("BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."),
    exceptions.ResponseError("NOREPLICAS Not enough good replicas to write."),
    # Before Redis 7, what a command in a script raises comes like this.
    exceptions.ResponseError(
        "Error running script (call to f_1): @user_script:1: -READONLY You can't write against a read only replica."
    ),
    exceptions.ResponseError(
        "Error running script (call to f_1): @user_script:1: -OOM command not allowed when used memory > 'maxmemory'."
    ),
]


def offer():
    """Have the scenarios find errors of Redis."""
    INJECTORS.update(dict.fromkeys(["redis", "redis+cluster"], _inject))


def _inject(rate, chance):
    original = AbstractConnection.read_response
    answers = itertools.count()

    async def read_response(connection, *arguments, **options):
        reply = await original(connection, *arguments, **options)
        # Answers of the script: what was asked is done, and yet an error. Not at the start, which it is meant to end.
        answer = reply[0] if isinstance(reply, list) and reply else reply
        if isinstance(answer, bytes) and answer[:1] in b'[{"' and next(answers) > 10 and chance.random() < rate:
            raise chance.choice(ERRORS)
        return reply

    AbstractConnection.read_response = read_response
