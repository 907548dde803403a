"""The PostgreSQL store of Pyncette."""

from pyncette.postgres.repository import PostgresRepository, backend, postgres_repository
from pyncette.postgres.tables import schema

__all__ = ["PostgresRepository", "backend", "postgres_repository", "schema"]
