"""A conformance suite for the stores of Pyncette: ours and yours.

``pytest --pyargs pyncette_conformance.suite --pyncette-url URL`` runs it; the README says how to adopt it in the tests of a
backend of your own.
"""

# pytest imports this package in every project of an environment that has it, so nothing heavy is imported here.
from pyncette_conformance.capabilities import Capabilities

__all__ = ["Capabilities"]
