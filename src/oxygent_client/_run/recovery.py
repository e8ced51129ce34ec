"""Recover the result of a run from the server's record.

Rule 1: it is looked up within `Timeouts.lookup`, and a server without records changes nothing.
Rule 2: it is looked up after a cut, when `idle` fires, and at the end of a run that has no answer, or one that reads
    like a failure (`confirm_state="auto"`). An error that is clear needs no record.
Rule 3: `confirm_state=True` looks it up at the end of each run, within `Timeouts.confirm`; an answer counts only if the
    record confirms it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs

from oxygent_client._core.errors import (
    ConnectionLostError,
    MalformedResponseError,
    Outcome,
    OxyError,
    RemoteAgentError,
    RemoteProtocolError,
    ServerError,
    SilenceTimeoutError,
    TooLargeError,
    UnconfirmedError,
)
from oxygent_client._core.events import OxyState
from oxygent_client._core.log import log_event
from oxygent_client._protocol.failure_texts import is_failure_text
from oxygent_client._protocol.router import SetAnswer
from oxygent_client._run.config import RunConfig
from oxygent_client._run.connection import RunConnection
from oxygent_client._run.state import RunState

if TYPE_CHECKING:
    from oxygent_client._protocol.run_record import RunRecord

UNCLEAR: Final = (ConnectionLostError, RemoteProtocolError, ServerError, SilenceTimeoutError)
"""Errors after which the record may know more, but for those of:"""
CLEAR: Final = (MalformedResponseError, TooLargeError)
HOW_IT_FAILED: Final = {OxyState.CANCELED: "was cancelled", OxyState.SKIPPED: "was skipped"}


def _is_over(record: RunRecord) -> bool:
    return record.is_over


@attrs.define(eq=False, repr=False)
class RecordRecovery:
    """Looks up the record of one run."""

    _config: RunConfig
    _connection: RunConnection
    _state: RunState

    async def look_up(self, enough: Callable[[RunRecord], bool]) -> RunRecord | None:
        """The server's record, polled until `enough` is true of it or `Timeouts.lookup` is over."""
        patience = self._config.timeouts.lookup
        return None if patience is None else await self._poll(enough, patience)

    async def _poll(self, enough: Callable[[RunRecord], bool], patience: float) -> RunRecord | None:
        from oxygent_client._api.records import look_until  # most runs need no record

        connection = self._connection
        transport, context = connection.transport, connection.context
        assert transport is not None
        request = self._config.prepare.record_request()
        record: RunRecord | None = None
        with self._connection.waiting():
            record = await look_until(
                enough,
                transport,
                attrs.evolve(
                    request,
                    context=attrs.evolve(request.context, observed=self._config.observed, sent=context.sent),
                ),
                self._connection.names.remote_trace_id,
                self._config.limits,
                until=min(anyio.current_time() + patience, self._state.deadline),
                node_id=connection.node_id,  # a trace id may cover several runs
            )
        state = "nothing" if record is None else record.state and record.state.name
        log_event(
            "record",
            context.changed(node_id=connection.node_id),
            "state in the server's record: %s",
            state,
            state=state,
        )
        return record

    async def ending(self, answer: SetAnswer | None) -> RunRecord | None:
        """The record of a run that was closed, if it is asked for; None also where it does not say how the run ended.

        Raises:
            UnconfirmedError: there is an answer, and the record had to confirm it.
        """
        timeouts, how = self._config.timeouts, self._config.confirm_state
        if how is not True:
            is_clear = answer is not None and (how is False or not is_failure_text(answer.output))
            record = None if is_clear else await self.look_up(_is_over)
            return record if record is not None and record.is_over else None
        record = await self._poll(_is_over, math.inf if timeouts.confirm is None else timeouts.confirm)
        if record is not None and record.is_over:
            return record
        if answer is None:  # there is nothing to confirm
            return None
        clock = "Timeouts.total" if timeouts.confirm is None else f"Timeouts.confirm ({timeouts.confirm:g} s)"
        known = "there is none" if record is None else "it has no such run" if not record.has_begun else "it has no end"
        raise UnconfirmedError(
            f"confirm_state=True, and the server's record did not say within {clock} how the run ended: {known}"
        )

    async def recovers(self, error: OxyError) -> bool:
        """Whether the record says how the run ended, which `error` left open.

        Raises:
            RemoteAgentError: it says that the run failed.
        """
        unknown = (
            Outcome.UNKNOWN in (self._state.tracker.outcome, error.outcome)
            or self._state.tracker.outcome is Outcome.STARTED
        )
        if not unknown or not isinstance(error, UNCLEAR) or isinstance(error, CLEAR):
            return False
        record = await self.look_up(_is_over)
        if record is None:
            return False
        if not record.has_begun:
            error.args = (f"{error}; the server has no record of the run",)
            return False
        self._state.tracker.know(Outcome.STARTED)
        # A run whose stream was left is cancelled for that: the record says no more than `error` does.
        if record.state is OxyState.CANCELED or not record.is_over:
            return False
        self.apply(record, error)
        return True

    def apply(self, record: RunRecord, error: OxyError | None = None) -> None:
        """The record says how the run ended.

        Raises:
            RemoteAgentError: not well.
        """
        self._state.tracker.know(Outcome.COMPLETED)
        if record.state is not OxyState.COMPLETED:
            raise self.failed(record.state, record.output) from error
        self._state.record = record

    def failed(self, state: OxyState | None, output: Any) -> RemoteAgentError:
        """The error of a run of which the server says that it ended so."""
        how = "failed" if state is None else HOW_IT_FAILED.get(state, "failed")
        return RemoteAgentError(
            f"the remote agent {how}: {self._connection.quoted(output)}", state=state, output=output
        )
