"""Iterates over all pages of a listing."""

from collections.abc import AsyncIterator, Sequence

from pyncette.store.contract import Repository, Row

__all__ = ["pages"]


async def pages(repository: Repository, partition: str, *, limit: int = 1000) -> AsyncIterator[Sequence[Row]]:
    """Yield the rows of ``partition`` page by page, with about ``limit`` rows each; a page may be empty without being the last.

    Rows may be changed and removed between two pages: see :meth:`~pyncette.repository.Repository.list`, whose errors this raises.
    """
    token = None
    while True:
        page = await repository.list(partition, limit=limit, token=token)
        yield page.rows
        token = page.token
        if token is None:
            return
