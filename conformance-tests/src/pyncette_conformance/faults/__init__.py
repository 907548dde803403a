"""Faults: real worker processes on a real store, what can happen to them, and an independent judge.

A scenario (:mod:`~pyncette_conformance.faults.scenarios`) starts workers on the store at a URL, kills, stops and disturbs them, and has
their log judged by a checker that knows only the schedules and what the bodies did. It runs on any backend::

    report = asyncio.run(scenarios.three_processes("redis://localhost/0", tmp_path))
    report.verify()

or, by hand, ``python -m pyncette_conformance.faults --url URL [SCENARIO ...]``.
"""

from pyncette_conformance.faults.checker import Category, Cause, Report, Violation, check
from pyncette_conformance.faults.cluster import Cluster
from pyncette_conformance.faults.plan import Kind, Plan, TaskPlan
from pyncette_conformance.faults.proxy import Proxy

__all__ = ["Category", "Cause", "Cluster", "Kind", "Plan", "Proxy", "Report", "TaskPlan", "Violation", "check"]
