"""What atheris tries; `nox -s fuzz` runs it."""
