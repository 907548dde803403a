"""The PostgreSQL store of Pyncette."""

from pyncette.postgres.repository import PostgresRepository, backend, postgres_repository

__all__ = ["PostgresRepository", "backend", "postgres_repository"]
