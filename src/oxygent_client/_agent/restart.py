"""Restart an earlier run from one of its calls, perhaps with another output for that call.

Rule 1: the server's record is read first. A server that is asked for a call that it does not have never answers
    (1.1.3), or runs everything again (1.0.13); so nothing is sent unless the record has the call.
Rule 2: a server finds a call by the digest of its arguments, and only calls of tools and models. A call that it would
    not find, or would take for another, is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import anyio
import attrs

from oxygent_client._agent.request_builder import RequestBuilder
from oxygent_client._api.catalog import DISCOVERY_SECONDS
from oxygent_client._api.records import TRANSIENT, RunNode, RunRecord, fetch_record
from oxygent_client._core.errors import ConfigurationError, Outcome, OxyError, UnknownNodeError
from oxygent_client._core.transport import Context, HTTPRequest, Transport
from oxygent_client._core.validation import TEXT, Rule, check_each, optional
from oxygent_client._protocol.payload import PROTOCOL
from oxygent_client._protocol.router import NameMap

LAG_SECONDS: Final = 0.5
"""How long a record may lag behind its run: until then a call that it does not have is looked up again."""
PAUSE: Final = 0.1
RESTARTABLE: Final = ("tool", "llm")
"""The types of calls that servers replay or replace; other calls run again."""

_RULES: Final[Mapping[str, Rule]] = {"trace_id": TEXT, "node_id": TEXT, "output": optional(TEXT)}


def check_restart_options(**options: Any) -> None:
    """Check the arguments of `restart`.

    Raises:
        ConfigurationError: one is not a str, or is empty.
    """
    check_each(options, _RULES)
    for name in ("trace_id", "node_id"):
        if not options[name]:
            raise ConfigurationError(f"{name} must not be empty")
    if options["output"] == "":
        raise ConfigurationError("output must not be empty: a server takes an empty output for none")


@attrs.frozen(kw_only=True)
class RestartRequestBuilder:
    """Builds the request that restarts a run; called as `RequestBuilder` is."""

    build: RequestBuilder
    """For the new run. Its callee and the arguments of its request are replaced by those of the earlier run."""
    reference_trace_id: str
    """The server's trace id of the earlier run."""
    node_id: str
    output: str | None

    @property
    def base_url(self) -> str:
        """The URL of the server that has the earlier run."""
        return self.build.base_url

    async def __call__(self, transport: Transport, context: Context) -> tuple[HTTPRequest, NameMap]:
        """Return the POST that restarts the run, and the translation of the names in its messages.

        Raises:
            UnknownNodeError: the server's record does not have the call, or the call cannot be restarted.
            OxyError: the record could not be read.
        """
        record, node = await self._find(transport, math.inf if context.deadline is None else context.deadline)
        _check(record, node)
        root = _root_of(record, node)
        if root.state is None:
            raise UnknownNodeError("the record does not have the arguments of the run, which has not ended")
        fields = {"reference_trace_id": self.reference_trace_id, "restart_node_id": node.node_id}
        if self.output is not None:
            fields["restart_node_output"] = self.output
        # A server stores the protocol fields that its release does not know as arguments.
        arguments = {name: value for name, value in root.arguments.items() if name not in PROTOCOL}
        request = self.build.request.clone_with(arguments=arguments)
        build = attrs.evolve(self.build, request=request, callee=root.callee, check_callee=False, restart=fields)
        return await build(transport, context)

    def record_request(self) -> HTTPRequest:
        """As `RequestBuilder.record_request`."""
        return self.build.record_request()

    async def _find(self, transport: Transport, deadline: float) -> tuple[RunRecord, RunNode]:
        build = self.build
        template = build.record_request()
        start = anyio.current_time()
        until = min(deadline, start + DISCOVERY_SECONDS)
        while True:
            try:
                record = await fetch_record(
                    transport, template, self.reference_trace_id, build.limits, until=until, with_arguments=True
                )
                return record, self._ended(record)
            except OxyError as error:
                error.outcome = Outcome.NOT_SENT  # of the run: only its record was asked for
                is_late = anyio.current_time() + PAUSE >= start + LAG_SECONDS
                if is_late or not isinstance(error, (*TRANSIENT, UnknownNodeError)):
                    raise
            await anyio.sleep(PAUSE)

    def _ended(self, record: RunRecord) -> RunNode:
        """The call to restart.

        Raises:
            UnknownNodeError: the record does not have it, or not its end.
        """
        node = record.find(self.node_id)
        if node is not None and node.update_time is not None:
            return node
        what = "has no call" if node is None else "does not have the end of the call"
        raise UnknownNodeError(f"the server's record of the run {what} {self.node_id[:60]!r}")


def _check(record: RunRecord, node: RunNode) -> None:
    """Refuse a call that the server would not find, or would take for another.

    Raises:
        UnknownNodeError: it is such a call.
    """
    shown = repr(node.node_id[:60])
    if node.node_type not in RESTARTABLE:
        raise UnknownNodeError(f"{shown} is not a call of a tool or a model; servers restart from those only")
    same = [each.node_id for each in record.nodes if each.input_md5 == node.input_md5 and each is not node]
    if same and node.input_md5:
        raise UnknownNodeError(
            f"the call {shown} has the same arguments as {same[0][:60]!r}; a server finds a call by its arguments"
        )


def _root_of(record: RunRecord, node: RunNode) -> RunNode:
    """The call of the run that `node` belongs to; a trace id may cover several runs."""
    known = {each.node_id: each for each in record.nodes}
    for _ in record.nodes:  # a record that leads around in a circle ends too
        node = known.get(node.father_node_id, node)
    return node
