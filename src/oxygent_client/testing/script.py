"""A scripting language for the agents of the toy remote.

Rule 1: a script is data: it compares by content and runs no code.
Rule 2: a scripted agent behaves like the framework's agents: a call has its steps, then its output.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import Any, TypeAlias

from attrs import field, frozen

from oxygent_client._core.deprecation import ModuleGetattr, moved_names
from oxygent_client.testing._fake_transport import Pause

__all__ = [
    "AGENTS",
    "SCRIPTS",
    "TRIP",
    "AgentStep",
    "Call",
    "Close",
    "Cut",
    "Fail",
    "Hang",
    "Pause",
    "Ping",
    "Say",
    "Script",
    "Stream",
    "Think",
    "Together",
    "Words",
]


class Words(Enum):
    """What an output or a message repeats."""

    ALL = "all"
    """The query."""
    REST = "rest"
    """The query without its first word."""
    MEMORY = "memory"
    """The queries of the conversation, from its first turn to this one."""
    OUTPUTS = "outputs"
    """The outputs of the agent's own calls, in one line. Only for an output."""


@frozen
class Say:
    """A message that an agent sends by `send_message`: any JSON value, with its own event name, id and retry.

    `retry` is in milliseconds, as in the event stream.
    """

    message: Any
    event: str = "message"
    id: str = ""
    retry: int = 3000


@frozen
class Think:
    """A `think` message of the agent."""

    text: str


@frozen
class Stream:
    """A text in deltas of a few words, spread over `seconds`, then `stream_end`."""

    text: str
    seconds: float = 0.0


def _steps(steps: Iterable[AgentStep]) -> tuple[AgentStep, ...]:
    return tuple(steps)


@frozen
class Call:
    """A call of an agent or tool: `tool_call`, its steps, then `observation`, unless it is `lost`."""

    callee: str
    steps: tuple[AgentStep, ...] = field(default=(), converter=_steps)
    query: str = field(default="", kw_only=True)
    output: Any = field(default="", kw_only=True)
    lost: bool = field(default=False, kw_only=True)
    """Send no observation, as after the time-out of a sub-agent."""


@frozen
class Together:
    """Steps that run in parallel; it ends with the last of them."""

    steps: tuple[AgentStep, ...] = field(converter=_steps)


@frozen
class Ping:
    """One extra heartbeat."""


@frozen
class Close:
    """End the stream with `close`, without an observation or an answer."""

    data: str = "done"


@frozen
class Fail:
    """Raise in the agent: its output is the framework's failure text, and its state FAILED."""

    reason: str = "scripted failure"


@frozen
class Cut:
    """End the stream without `close`, as a real server does when it is stopped."""


@frozen
class Hang:
    """Send only heartbeats from here on, as a real server does after its task died."""


AgentStep: TypeAlias = Pause | Say | Think | Stream | Call | Together | Ping | Close | Fail | Cut | Hang


@frozen
class Script:
    """The behaviour of one agent: its steps, then its output (any JSON value, or Words of the query)."""

    steps: tuple[AgentStep, ...] = field(default=(), converter=_steps)
    output: Any = field(default="", kw_only=True)


# ----------------------------------------------------------------------------------------------------- The trip planner

_PLAN = """\
## Lisbon, Friday to Monday

| | Choice | Price |
|---|---|---:|
| Flights | TP 533 out 08:25, TP 536 back 19:10 | €142 |
| Hotel | Casa do Miradouro, Alfama, 3 nights | €267 |
| **Total** | for one | **€409** |

**Why this one:** the hotel is five minutes from tram 28, and 212 guests praise the terrace.

1. **Friday** Alfama on foot, *fado* in the evening
2. **Saturday** Belém: the tower, the monastery, the tarts
3. **Sunday** Sintra by train, 40 minutes
"""


def _step(number: int, agent: str) -> dict[str, Any]:
    return {"type": "progress", "content": {"step": number, "of": 3, "agent": agent}}


_FLIGHTS = Call(
    "flight_agent",
    [
        Pause(0.3),
        Together(
            [
                Call("search_flights", [Pause(1.15)], query="BER to LIS", output="TP 533 at 08:25, €142 return"),
                Call("baggage_rules", [Pause(0.6)], query="TAP Discount", output="one cabin bag, 8 kg"),
            ]
        ),
        Pause(0.25),
    ],
    query="Berlin to Lisbon, Friday to Monday",
    output="TP 533 and TP 536, €142",
)

_REVIEWS = Call(
    "review_agent",
    [
        Pause(0.35),
        Say(_step(1, "review_agent")),
        Call("read_reviews", [Pause(0.4)], query="Casa do Miradouro", output="212 reviews, 4.7 of 5"),
        Say(_step(2, "review_agent")),
        Pause(0.55),
        Say(_step(3, "review_agent")),
    ],
    query="What do guests say?",
    output="the terrace, the quiet, tram 28",
)

_HOTELS = Call(
    "hotel_agent",
    [
        Pause(0.45),
        Together(
            [
                Call("search_hotels", [Pause(0.95)], query="Alfama, 3 nights", output="3 of 41 fit the budget"),
                _REVIEWS,
            ]
        ),
        Pause(0.2),
    ],
    query="Three quiet nights under €300",
    output="Casa do Miradouro, €89 a night",
)

TRIP = Script(
    [
        Pause(0.25),
        Think("A way there and a room: two questions that can be asked at once."),
        Pause(0.35),
        Say("Looking at flights and hotels for you."),
        Pause(0.25),
        Together([_FLIGHTS, _HOTELS]),
        Ping(),
        Pause(0.15),
        Call(
            "price_history",
            [
                Pause(0.45),
                Say(
                    {
                        "type": "error",
                        "content": "upstream timed out, using yesterday's prices",
                        "agent": "price_history",
                    }
                ),
            ],
            query="Lisbon in June",
            output="1 day old",
        ),
        Call("add_up", [Pause(0.35)], query="142 + 3 x 89", output=409),
        Pause(0.2),
        Stream(_PLAN, 2.8),
    ],
    output=_PLAN,
)


def _members(steps: Iterable[AgentStep]) -> Iterator[dict[str, Any]]:
    """The agents and tools that these steps call, as nodes of an organization: an agent calls others, a tool none."""
    for step in steps:
        if isinstance(step, Together):
            yield from _members(step.steps)
        elif isinstance(step, Call):
            below = [*_members(step.steps)]
            children = {"children": below} if below else {}
            yield {"name": step.callee, "type": "agent" if below else "tool", **children}


AGENTS: Mapping[str, Any] = {"name": "trip_planner", "type": "agent", "children": [*_members(TRIP.steps)]}
"""The organization of the trip planner."""

SCRIPTS: Mapping[str, Script] = {
    "trip": TRIP,
    "echo": Script(output=Words.REST),
    "memory": Script(output=Words.MEMORY),
    "tools": Script(
        [
            Call("search_flights", query="2+3", output=5),
            Together(
                [
                    Call("search_hotels", [Pause(0.2)], output=20),
                    Call("add_up", [Pause(0.1)], output="HELLO"),
                ]
            ),
        ],
        output=Words.OUTPUTS,
    ),
    "nested": Script(
        [
            Call(
                "hotel_agent",
                [
                    Call(
                        "review_agent",
                        [
                            Say({"type": "progress", "content": {"from": "leaf"}}),
                            Call("read_reviews", output=42),
                        ],
                        query="leaf",
                        output="leaf(42)",
                    )
                ],
                query="nested",
                output="middle(leaf(42))",
            )
        ],
        output="master(middle(leaf(42)))",
    ),
    "odd": Script(  # unusual messages; "done" is how the oldest dialect ends a run
        [
            Say("two\nlines"),
            Say("done"),
            Say(42),
            Say([1, 2, {"three": None}]),
            Say(None),
            Say(""),
            Say(message=True),
            Say(math.nan),
            Say({"no": "type"}),
            Say({"type": None, "content": "null type"}),
            Say({"type": "progress", "content": "custom"}, event="progress", id="my-id-1", retry=1500),
            Say({"type": "answer", "content": "not the last one"}),
            Call("price_history", lost=True),
        ],
        output={"a": [1, 2, None], "b": "é🚀"},
    ),
    "slow": Script(
        step for n in range(200) for step in (Say({"type": "progress", "content": {"step": n}}), Pause(0.05))
    ),
    "fail": Script([Say({"type": "error", "content": "the agent gave up"}), Close()]),
    "raise": Script([Say({"type": "progress", "content": "before the failure"}), Fail()]),
    "silent": Script([Close()]),
    "bye": Script([Close("bye")]),
    "cut": Script([Say({"type": "progress", "content": "before the cut"}), Cut()]),
    "hang": Script([Hang()]),
}

__getattr__: ModuleGetattr = moved_names(__name__, {"Step": "oxygent_client.testing.script:AgentStep"})
