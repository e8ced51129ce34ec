"""A synchronous face of the package, for programs without `async`.

```python
with SyncSSEOxyGent(server_url="http://127.0.0.1:8082") as agent:
    for event in agent.stream("Plan my trip"):
        print(event)
```

All objects share one event loop in a daemon thread. Threads may share an agent; a forked child has a loop of its own.
"""

from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import ParamSpec, TypeVar

from oxygent_client.sync._agent import SyncSSEOxyGent
from oxygent_client.sync._conversation import SyncConversation
from oxygent_client.sync._portal import Block, current_portal
from oxygent_client.sync._query_map import SyncQueryResults
from oxygent_client.sync._registry import SyncAgentRegistry
from oxygent_client.sync._run import SyncRun

__all__ = ["SyncAgentRegistry", "SyncConversation", "SyncQueryResults", "SyncRun", "SyncSSEOxyGent", "call", "hold"]

P = ParamSpec("P")
T = TypeVar("T")


def call(function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run an async function in the event loop of the synchronous objects: `call(cluster.check)`.

    It is for parts of the package that have no synchronous face of their own. A cluster keeps the health of its
    replicas for each event loop, so only here it is that of the synchronous agents.
    """
    return current_portal().run(function, *args, **kwargs)


@contextmanager
def hold(manager: AbstractAsyncContextManager[T]) -> Generator[T]:
    """Keep an `async with` block open in that event loop: `with sync.hold(cluster.watching(every=5))`."""
    block = Block(current_portal(), manager)
    value = block.enter()
    try:
        yield value
    except BaseException as error:
        if not block.leave(error):
            raise
    else:
        block.leave()
