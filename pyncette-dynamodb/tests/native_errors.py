"""What DynamoDB answers when it is busy or fails, for the fault scenarios: ``--worker=--plugin=.../native_errors.py:offer --fault=driver=error%30``."""

import itertools

from aiobotocore.httpsession import AIOHTTPSession
from conftest import failure

from pyncette_conformance.faults.native import INJECTORS

__all__ = ["offer"]

#: Refused before anything was done.
BUSY = ["ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded"]
#: Done, or not.
FAILED = ["InternalServerError", "ServiceUnavailable"]


def offer():
    """Have the scenarios find errors of DynamoDB."""
    INJECTORS["dynamodb"] = _inject


def _inject(rate, chance):
    original = AIOHTTPSession.send
    requests = itertools.count()

    async def send(session, request):
        if chance.random() < rate:
            return failure(chance.choice(BUSY))(request)
        response = await original(session, request)
        # Rarer, since the caller has to start over; and not at the start, which it is meant to end.
        if next(requests) > 10 and chance.random() < rate / 5:
            return failure(chance.choice(FAILED), status=500)(request)
        return response

    AIOHTTPSession.send = send
