"""Redis as a store of Pyncette: a single server, Sentinel, Redis Cluster, and compatible servers such as Valkey."""

from pyncette.redis.repository import RedisRepository, backend, redis_repository

__all__ = ["RedisRepository", "backend", "redis_repository"]
