"""A conformance suite for stores of Pyncette, including your own.

``pytest --pyargs pyncette_conformance.suite --pyncette-url URL`` runs it; the README says how to adopt it in the tests of your
backend.
"""

# pytest imports this package in every project of an environment that has it, so import nothing heavy here.
from pyncette_conformance.capabilities import Capabilities

__all__ = ["Capabilities"]
