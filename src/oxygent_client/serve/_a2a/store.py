"""Keep tasks in memory, within limits.

Rule 1: the pieces of an artifact are joined to one part when they are saved: a stored task has the whole text, and the
    cost of copying it, which the package does for each event, does not grow with the number of pieces.
Rule 2: finished tasks are kept up to a number and up to a total size; the oldest go first. Running ones always are.
"""

from __future__ import annotations

from typing import Final

from a2a.server.context import ServerCallContext
from a2a.server.tasks import InMemoryTaskStore
from a2a.types import Task, TaskState

from oxygent_client.serve._a2a.sent_messages import SENT

TASKS: Final = 1000
"""The finished tasks that are kept."""
TASKS_BYTES: Final = 64 * 1024 * 1024
"""The bytes of finished tasks that are kept."""
ENDED: Final = frozenset(
    (
        TaskState.TASK_STATE_COMPLETED,
        TaskState.TASK_STATE_CANCELED,
        TaskState.TASK_STATE_FAILED,
        TaskState.TASK_STATE_REJECTED,
    )
)
"""The states in which a task ends."""


class BoundedTaskStore(InMemoryTaskStore):
    """The package's store, with limits."""

    def __init__(self, tasks: int = TASKS, size: int = TASKS_BYTES) -> None:
        super().__init__()
        self._most_tasks = tasks
        self._most_bytes = size
        self._ended: dict[str, int] = {}
        """The finished tasks, the oldest first, with their sizes."""

    async def save(self, task: Task, context: ServerCallContext) -> None:
        """Save a task, with the parts of each artifact joined, and forget tasks that are too many."""
        for artifact in task.artifacts:
            if len(artifact.parts) > 1:  # all are text
                artifact.parts[0].text = "".join(part.text for part in artifact.parts)
                del artifact.parts[1:]
        await super().save(task, context)
        if (sent := context.state.get(SENT)) is not None:
            sent.begin(task.id)
        if task.status.state in ENDED:
            self._ended[task.id] = task.ByteSize()
            while len(self._ended) > self._most_tasks or sum(self._ended.values()) > self._most_bytes:
                oldest = next(iter(self._ended))
                del self._ended[oldest]
                await self.delete(oldest, context)
