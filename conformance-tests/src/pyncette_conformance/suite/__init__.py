"""The tests. In the tests of a backend of your own: ``from pyncette_conformance.suite import *``."""
