"""Integrations with other frameworks, one module each."""

__all__: list[str] = []
