"""What runs tasks. Is given a way to invoke a body, and knows neither context nor application.

``lanes`` decides what is polled when, ``loop`` claims and runs, ``execution`` is one run, ``settlement`` stores outcomes in groups,
``executors`` are where bodies run.
"""

__all__: list[str] = []
