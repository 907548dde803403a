"""What ``benchmark.py`` measures beyond one application: it is a program of its own, and this is the rest of it."""
