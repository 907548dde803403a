"""Runs that ended well, but after another worker had taken their lease."""

import dataclasses

from pyncette.store.contract import Claim, Commit, Key

__all__ = ["Overtaken"]

#: How many are remembered, of rows that may never be claimed here again.
_MOST = 1000


class Overtaken(dict[Key, Commit]):
    """What they would have committed, for the case that this worker has their turn again.

    Otherwise two workers whose bodies outlast the lease could continue taking it from each other at the wrong moment, and none would
    ever commit (I16).
    """

    def remember(self, commit: Commit) -> None:
        self[commit.claim.key] = commit
        if len(self) > _MOST:
            del self[next(iter(self))]

    def commit_of(self, claim: Claim) -> Commit | None:
        """What to commit of the occurrence of ``claim`` instead of running it again, if it ended well here before."""
        commit = self.pop(claim.key, None)
        if commit is None or (commit.claim.occurrence, commit.claim.revision) != (claim.occurrence, claim.revision):
            return None
        return dataclasses.replace(commit, claim=claim)
