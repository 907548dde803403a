"""Stores, which keep rows. This package knows no schedule and no task.

``contract`` says what a store promises, and ``lifecycle`` has the rules of a row's life. ``codec`` reads stored values, ``rowwise`` and ``compare_and_set``
are bases for stores, ``memory`` and ``sqlite`` are the stores of core, ``urls`` finds the others, and ``observed`` instruments calls.
"""

__all__: list[str] = []
