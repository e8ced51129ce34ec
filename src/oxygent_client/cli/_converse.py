"""One conversation from question to answer, shown while it happens.

Rule 1: leaving, for whatever reason, leaves the stream's block: the remote run stops too.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio

from oxygent_client import OxyRequest, SSEOxyGent
from oxygent_client.cli._show import Outcome, Show

__all__ = ["converse"]


async def converse(
    agent: SSEOxyGent, query: str | OxyRequest, show: Show, *, clock: Callable[[], float] = anyio.current_time
) -> Outcome:
    """How the run ended, after every event of it was shown.

    Raises:
        OxyError: as `agent.stream` does; what came until then was shown.
        OSError: what is shown can no longer be written.
    """
    start = clock()
    failed: BaseException | None = None
    outcome: Outcome | None = None

    async def tick(seconds: float) -> None:
        while True:
            show.tick(clock() - start)
            await anyio.sleep(seconds)

    with show:
        async with anyio.create_task_group() as group:
            if show.interval is not None:
                group.start_soon(tick, show.interval)
            try:
                async with agent, agent.stream(query) as run:
                    async for event in run:
                        show.see(event, clock() - start)
                outcome = Outcome(run.response, run.trace_id, run.remote_trace_id)
                show.finish(outcome, clock() - start)
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:  # noqa: BLE001  (raised below, also Ctrl-C: a task group would wrap it)
                failed = error
            group.cancel_scope.cancel()
        if failed is not None:
            raise failed
    assert outcome is not None, "either it failed or it ended"
    return outcome
