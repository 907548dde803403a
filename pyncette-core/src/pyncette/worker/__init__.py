"""The engine, which runs tasks. It receives a function that invokes a body, and knows neither the context nor the application.

``lanes`` decides which partition is polled when, ``loop`` claims and runs, ``execution`` is one run, ``settlement`` stores outcomes in
groups, and ``executors`` provide the slots in which bodies run.
"""

__all__: list[str] = []
