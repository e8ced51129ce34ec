"""Fuzzing with atheris; `nox -s fuzz` runs it."""
