"""Trips, planned by a remote agent."""

from dataclasses import dataclass

from oxygent_client import OxyError, SSEOxyGent, ToolCall


@dataclass(frozen=True)
class Trip:
    """A plan, and the agents and tools that were called for it."""

    plan: str
    asked: tuple[str, ...]


class NoTripError(Exception):
    """There is no plan; `again` tells whether a retry is safe and may help."""

    def __init__(self, text: str, *, again: bool) -> None:
        super().__init__(text)
        self.again = again


async def plan(agent: SSEOxyGent, wish: str) -> Trip:
    """Let the remote agent plan a trip for this wish."""
    try:
        async with agent.stream(wish) as run:
            asked = [event.callee async for event in run if isinstance(event, ToolCall)]
    except OxyError as error:
        raise NoTripError(type(error).__name__, again=error.retryable) from error
    return Trip(str(run.response.output), tuple(dict.fromkeys(asked)))
