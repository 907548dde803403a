"""Classifies the errors of the driver and of the service."""

from collections.abc import Mapping
from typing import Any

from botocore import exceptions as driver

from pyncette.errors import RepositoryError, TransientRepositoryError

__all__ = ["code_of", "line_of", "of_a_statement", "without_credentials"]


def without_credentials(where: str, error: driver.BotoCoreError) -> RepositoryError:
    if isinstance(error, driver.NoCredentialsError | driver.PartialCredentialsError):
        return RepositoryError(
            f"There are no AWS credentials for {where}, or not all of them; "
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give the machine a role"
        )
    # Transient, because credentials are fetched every few hours, which may fail once.
    return TransientRepositoryError(
        f"The AWS credentials for {where} could not be fetched ({type(error).__name__}); check the source they come from"
    )


def of_a_statement(error: Mapping[str, Any]) -> driver.ClientError:
    """The error that a separate request for the statement would have raised."""
    code = str(error.get("Code", ""))
    status = 500 if code.startswith("InternalServer") else 400
    names = {"AccessDenied": "AccessDeniedException", "ItemCollectionSizeLimitExceeded": "ItemCollectionSizeLimitExceededException"}
    names["ResourceNotFound"] = "ResourceNotFoundException"
    said: Any = {
        "Error": {"Code": names.get(code, code), "Message": str(error.get("Message", ""))},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return driver.ClientError(said, "BatchExecuteStatement")


def code_of(error: driver.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def line_of(error: Exception) -> str:
    text = str(error)
    if isinstance(error, driver.ClientError):
        text = f"{error.operation_name}: {code_of(error)}: {error.response.get('Error', {}).get('Message', '')}"
    return " ".join(text.split()) or type(error).__name__
