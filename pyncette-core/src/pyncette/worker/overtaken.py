"""Successful runs that ended after another worker had taken over their occurrence."""

import dataclasses

from pyncette.store.contract import Claim, Commit, Key

__all__ = ["Overtaken"]

#: How many are remembered, because this worker may never claim those rows again.
_MOST = 1000


class Overtaken(dict[Key, Commit]):
    """Their commits, in case this worker claims the occurrence again.

    Otherwise two workers whose bodies outlast the lease could take the occurrence from each other again and again, and neither would ever
    commit (I16).
    """

    def remember(self, commit: Commit) -> None:
        self[commit.claim.key] = commit
        if len(self) > _MOST:
            del self[next(iter(self))]

    def commit_of(self, claim: Claim) -> Commit | None:
        """The commit for the occurrence of ``claim``, if it has already succeeded here, to use instead of running it again."""
        commit = self.pop(claim.key, None)
        if commit is None or (commit.claim.occurrence, commit.claim.revision) != (claim.occurrence, claim.revision):
            return None
        return dataclasses.replace(commit, claim=claim)
