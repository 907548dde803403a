"""Amazon DynamoDB as a store of Pyncette."""

from pyncette.dynamodb.repository import DynamoDBRepository, backend, dynamodb_repository

__all__ = ["DynamoDBRepository", "backend", "dynamodb_repository"]
