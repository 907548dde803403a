"""Faults: real worker processes on a real store, what can happen to them, and an independent judge.

A scenario of :mod:`~pyncette_conformance.faults.scenarios` starts workers on the store at a URL, kills, stops and disturbs them,
and has their log judged by a checker that knows only the schedules and what the bodies did. It runs on any backend::

    report = asyncio.run(scenarios.three_processes("redis://localhost/0?namespace=faults", tmp_path))
    report.verify()

or, by hand, ``python -m pyncette_conformance.faults --url URL [SCENARIO ...]``.
"""

# Nothing is imported here: dozens of workers are started, and each would pay for it.
__all__: list[str] = []
