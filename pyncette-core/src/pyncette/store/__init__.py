"""Where rows are kept. Knows no schedule and no task.

``contract`` says what a store promises and ``lifecycle`` has the rules of a row's life. ``codec`` reads what is stored, ``rowwise`` and ``compare_and_set`` are bases for
stores, ``memory`` and ``sqlite`` the stores of core, ``urls`` finds the others, and ``observed`` lets somebody look on.
"""

__all__: list[str] = []
