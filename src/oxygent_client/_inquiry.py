"""What the server's own record says of a run, where the wire is silent.

Rule 1: it is asked within `Timeouts.lookup`, and a server without records changes nothing.
Rule 2: it speaks after a cut, when `idle` fires, and, if `confirm_state` is set, at the end. An error that is clear
    needs no record.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import anyio
import attrs

from oxygent_client._clocks import Clocks
from oxygent_client._errors import (
    ConnectionLostError,
    MalformedResponseError,
    Outcome,
    OxyError,
    RemoteAgentError,
    RemoteProtocolError,
    ServerError,
    SilenceTimeoutError,
    TooLargeError,
)
from oxygent_client._line import Line
from oxygent_client._log import tell
from oxygent_client._models import OxyState
from oxygent_client._plan import Plan
from oxygent_client._record import RunRecord, look_until
from oxygent_client._word import Word

__all__ = ["Inquiry"]

UNCLEAR: Final = (ConnectionLostError, RemoteProtocolError, ServerError, SilenceTimeoutError)
"""Errors after which the record may know more, but for those of:"""
CLEAR: Final = (MalformedResponseError, TooLargeError)


@attrs.define(eq=False, repr=False)
class Inquiry:
    """Asks for the record of one run."""

    _plan: Plan
    _line: Line
    _clocks: Clocks
    _word: Word
    record: RunRecord | None = attrs.field(default=None, init=False)
    """The record that said how the run ended, where its stream did not."""

    async def look(self, enough: Callable[[RunRecord], bool]) -> RunRecord | None:
        """What the server has stored of the run, looked at until it is `enough`, or the time for it is over."""
        transport, asked = self._line.transport, self._line.request
        patience = self._plan.timeouts.lookup
        if patience is None or transport is None or asked is None:
            return None
        # A trace id may cover several runs; which is meant says the node that the payload named.
        node_id = asked.context.node_id
        question = self._plan.question()
        record = await look_until(
            enough,
            transport,
            attrs.evolve(question, context=attrs.evolve(question.context, observed=self._plan.observed)),
            self._line.link.remote_trace_id,
            self._plan.limits,
            until=min(anyio.current_time() + patience, self._clocks.deadline),
            node_id=node_id,
        )
        said = "nothing" if record is None else record.state and record.state.name
        tell("record", asked.context, "the record of the run says %s", said, state=said)
        return record

    async def settles(self, error: OxyError) -> bool:
        """Whether the record says how the run ended, which `error` left open.

        Raises:
            RemoteAgentError: it says that the run failed.
        """
        unknown = Outcome.UNKNOWN in (self._word.outcome, error.outcome) or self._word.outcome is Outcome.STARTED
        if not unknown or not isinstance(error, UNCLEAR) or isinstance(error, CLEAR):
            return False
        record = await self.look(lambda record: record.is_over)
        if record is None:
            return False
        if not record.has_begun:
            error.args = (f"{error}; the server has no record of the run",)
            return False
        self._word.know(Outcome.STARTED)
        # A run whose stream was left is cancelled for that: the record says no more than `error` does.
        if record.state not in (OxyState.COMPLETED, OxyState.FAILED):
            return False
        self.settle(record, error)
        return True

    def settle(self, record: RunRecord, error: OxyError | None = None) -> None:
        """The record says how the run ended.

        Raises:
            RemoteAgentError: not well.
        """
        self._word.know(Outcome.COMPLETED)
        if record.state is not OxyState.COMPLETED:
            raise self.failed(record.state, record.output) from error
        self.record = record

    def failed(self, state: OxyState | None, output: Any) -> RemoteAgentError:
        """The error of a run of which the server says that it ended so."""
        how = "was cancelled" if state is OxyState.CANCELED else "failed"
        return RemoteAgentError(f"the remote agent {how}: {self._line.quoted(output)}", state=state, output=output)
