"""A cluster of MariaDB servers (Galera), where each connection talks to one node of several.

A row lock holds on its own node only. Of two transactions that changed a row on two nodes at once the first to
commit wins; the other fails as a deadlock does (1213), at any statement or at its COMMIT, and is tried again as one.
So every transaction here that decides by a row it has locked also changes that row, or only such rows as whoever
changes the locked one need not know of.
"""

from typing import Any, Final

from sqlalchemy import ExceptionContext

from imgguard.store.failures import NOT_IN_CLUSTER

# https://mariadb.com/docs/galera-cluster/reference/galera-cluster-system-variables#wsrep_sync_wait: reads, and the
# beginning of a transaction.
_SYNC_READS: Final = 1


def see_all_commits(cursor: Any) -> None:
    """Let a new session see whatever was committed on any node before it asked.

    Without it a node may answer from before a commit that another has confirmed: a failure would not be shown at
    once, and an attempt that began through one node would not be found by its end through another. What the server
    has set beyond that stays.

    :param cursor: of the driver; of a server that is no node of a cluster only a variable is read
    """
    cursor.execute("SHOW VARIABLES LIKE 'wsrep_on'")
    found = cursor.fetchone()
    if found is not None and found[1] == 'ON':
        cursor.execute(f'SET SESSION wsrep_sync_wait = @@SESSION.wsrep_sync_wait | {_SYNC_READS}')


def left_the_cluster(context: ExceptionContext) -> None:
    """Count a node that refuses everything as a dead connection: the next one may reach another node."""
    arguments = context.original_exception.args
    if len(arguments) > 1 and arguments[0] == NOT_IN_CLUSTER:
        context.is_disconnect = True
