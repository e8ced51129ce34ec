"""Trips, planned by a remote agent."""

from dataclasses import dataclass

from oxygent_client import OxyError, SSEOxyGent, ToolCall


@dataclass(frozen=True)
class Trip:
    """A plan, and who was asked for it."""

    plan: str
    asked: tuple[str, ...]


class NoTripError(Exception):
    """There is no plan; `again` says whether to ask again is safe, and may help."""

    def __init__(self, text: str, *, again: bool) -> None:
        super().__init__(text)
        self.again = again


async def plan(agent: SSEOxyGent, wish: str) -> Trip:
    """The trip that the remote agent plans for this wish."""
    try:
        async with agent.stream(wish) as run:
            asked = [event.callee async for event in run if isinstance(event, ToolCall)]
    except OxyError as error:
        raise NoTripError(type(error).__name__, again=error.retryable) from error
    return Trip(str(run.response.output), tuple(dict.fromkeys(asked)))
