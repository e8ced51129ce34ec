"""Turn exceptions of the user's code into `HandlerError`."""

from __future__ import annotations

from oxygent_client._core.errors import HandlerError, Outcome, OxyError


class user_code_errors:  # noqa: N801  (used like a function; a generator would cost more than most handlers)
    """Raise a `HandlerError` for an exception of the user's `function` in the block; the exception is its cause.

    With `keep_oxy_errors`, an `OxyError` is raised unchanged.
    """

    __slots__ = ("_function", "_keep_oxy_errors", "_outcome")

    def __init__(self, function: str, outcome: Outcome | None = None, *, keep_oxy_errors: bool = False) -> None:
        self._function = function
        self._outcome = outcome
        self._keep_oxy_errors = keep_oxy_errors

    def __enter__(self) -> None:
        """Nothing is to be done."""

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None or not isinstance(error, Exception) or (self._keep_oxy_errors and isinstance(error, OxyError)):
            return
        raise user_code_error(self._function, error, self._outcome) from error


def user_code_error(function: str, error: Exception, outcome: Outcome | None = None) -> HandlerError:
    """Return the error for an exception of the user's `function`; raise it from `error`."""
    return HandlerError(f"{function} raised {type(error).__name__}", outcome=outcome)
