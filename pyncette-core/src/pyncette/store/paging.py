"""A listing from its first page to its last."""

from collections.abc import AsyncIterator, Sequence

from pyncette.store.contract import Repository, Row

__all__ = ["pages"]


async def pages(repository: Repository, partition: str, *, limit: int = 1000) -> AsyncIterator[Sequence[Row]]:
    """The rows of ``partition``, as many at a time as the store returns for ``limit``; a page may be empty and yet not the last.

    Rows may be changed, and removed, between two pages: see :meth:`~pyncette.repository.Repository.list`. Raises what that raises.
    """
    token = None
    while True:
        page = await repository.list(partition, limit=limit, token=token)
        yield page.rows
        token = page.token
        if token is None:
            return
