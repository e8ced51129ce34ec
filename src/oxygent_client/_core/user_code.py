"""Turn exceptions of the user's code into `HandlerError`."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from oxygent_client._core.errors import HandlerError, Outcome, OxyError


@contextmanager
def user_code_errors(
    function: str, outcome: Outcome | None = None, *, keep_oxy_errors: bool = False
) -> Generator[None]:
    """Raise a `HandlerError` for an exception of the user's `function`; the exception is its cause.

    With `keep_oxy_errors`, an `OxyError` is raised unchanged.
    """
    try:
        yield
    except Exception as error:
        if keep_oxy_errors and isinstance(error, OxyError):
            raise
        raise HandlerError(f"{function} raised {type(error).__name__}", outcome=outcome) from error
