from enum import Enum
from typing import Any, ClassVar

class OxyState(Enum):
    CREATED = 1
    RUNNING = 2
    COMPLETED = 3
    FAILED = 4
    PAUSED = 5
    SKIPPED = 6
    CANCELED = 7

class OxyRequest:
    model_fields: ClassVar[dict[str, Any]]
    arguments: dict[str, Any]
    current_trace_id: str | None
    node_id: str | None
    def __init__(self, **fields: Any) -> None: ...
    def get_query(self) -> str: ...
    def model_dump(self, *, exclude: set[str] = ...) -> dict[str, Any]: ...
    async def call(self, **kwargs: Any) -> OxyResponse: ...
    async def send_message(
        self, message: Any = None, event: str | None = None, id: str | None = None, retry: int | None = None
    ) -> None: ...

class OxyResponse:
    state: OxyState
    output: Any
    extra: dict[str, Any]
    def __init__(self, *, state: OxyState, output: Any, extra: dict[str, Any] = ...) -> None: ...
