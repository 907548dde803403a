"""Prometheus metrics of an application."""

from pyncette.prometheus.hooks import use_prometheus

__all__ = ["use_prometheus"]
