"""Pyncette: a reliable distributed scheduler with pluggable storage backends."""

# Backends live in distributions of their own and add their modules to this package.
__path__ = __import__("pkgutil").extend_path(__path__, __name__)
