"""oxygent-client inside other frameworks: a module for each, and an extra of the same name."""

__all__: list[str] = []
