"""The MySQL and MariaDB store of Pyncette."""

from pyncette.mysql.repository import MySQLRepository, backend, mysql_repository, schema

__all__ = ["MySQLRepository", "backend", "mysql_repository", "schema"]
