"""Everything that a process can do with tasks except run them: schedule, look up, list, pause, remove.

It contains no engine, so it is all that a web process needs. ``base`` finds rows; each other module has one kind of call.
"""

import functools

from pyncette.client.joined import Ask, Joined, asked, driven, repository_within
from pyncette.client.looking import Looking, TaskPage
from pyncette.client.operating import Operating
from pyncette.client.remembering import Remembering
from pyncette.client.surveying import Surveying
from pyncette.client.triggering import Triggering

__all__ = ["Ask", "Client", "JoinedClient", "TaskPage", "driven", "repository_within"]


class Client(Triggering, Looking, Remembering, Operating, Surveying):
    """Schedules and looks up the tasks of one application in its open store."""

    def within(self, connection: object) -> "JoinedClient":
        """A client whose calls are part of the open transaction on ``connection``, your own database connection.

        Its changes take effect when you commit, together with your own rows, or not at all::

            async with connection.transaction():
                await connection.execute("INSERT INTO orders ...")
                await app_context.within(connection).schedule_task(remind, "order-1", execute_at=tomorrow)

        :param connection: a connection to the database of the tasks: from asyncpg or psycopg 3, aiomysql, aiosqlite, or an
            AsyncConnection or AsyncSession of SQLAlchemy on any of these. Pyncette never commits, rolls back or closes it, even
            when a call fails.

        After the commit, due tasks run at the next poll, or at once where the store can wake processes. Use the client only
        while the transaction is open. The rows that it changes are locked until it ends.

        Raises ConfigurationError if the connection is of another kind, and RepositoryError if the store has no transactions. The
        calls raise ConfigurationError, and write nothing, if the connection is closed, in no transaction, or leads to another database; after
        a TransientRepositoryError, repeat the whole transaction.
        """
        repository = repository_within(self.repository, connection, blocking=False)
        return JoinedClient(self, repository, functools.partial(asked, self))


class JoinedClient(Joined, Client):
    """A client within your transaction, see :meth:`Client.within`."""
