"""A scripting language for the agents of the toy remote.

Rule 1: a script is data. It compares by content, and nothing in it runs.
Rule 2: an agent is spoken of as the framework's own agents behave: a call has its steps, then its output.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, TypeAlias

from attrs import field, frozen

__all__ = [
    "AGENTS",
    "SCRIPTS",
    "TRIP",
    "Call",
    "Close",
    "Cut",
    "Fail",
    "Hang",
    "Pause",
    "Ping",
    "Say",
    "Script",
    "Step",
    "Stream",
    "Think",
    "Together",
    "Words",
]


class Words(Enum):
    """What of the query an output or a message repeats: all of it, or all but the first word."""

    ALL = "all"
    REST = "rest"


@frozen
class Pause:
    """Nothing for so many seconds (times the remote's pace)."""

    seconds: float


@frozen
class Say:
    """Whatever an agent may hand to `send_message`: an object, a text, a number, null; with a framing of its own.

    `retry` is milliseconds, as on the wire.
    """

    message: Any
    event: str = "message"
    id: str = ""
    retry: int = 3000


@frozen
class Think:
    """A thought of the agent that has the word."""

    text: str


@frozen
class Stream:
    """A text in deltas of a few words, spread over so many seconds, then `stream_end`."""

    text: str
    seconds: float = 0.0


def _steps(steps: Iterable[Step]) -> tuple[Step, ...]:
    return tuple(steps)


@frozen
class Call:
    """A call of an agent or tool: tool_call, the steps it takes, observation. Of a `lost` one no observation comes."""

    callee: str
    steps: tuple[Step, ...] = field(default=(), converter=_steps)
    query: str = field(default="", kw_only=True)
    output: Any = field(default="", kw_only=True)
    lost: bool = field(default=False, kw_only=True)  # no observation comes: a sub-agent that ran into its time-out


@frozen
class Together:
    """Steps that begin at once; this ends with the last of them."""

    steps: tuple[Step, ...] = field(converter=_steps)


@frozen
class Ping:
    """One heartbeat out of turn."""


@frozen
class Close:
    """The agent ends the stream itself: no observation, no answer."""

    data: str = "done"


@frozen
class Fail:
    """The agent that has the word raises: its output is the framework's text for that, and its state FAILED."""

    reason: str = "scripted failure"


@frozen
class Cut:
    """The stream ends cleanly but without `close`, as when a real server is told to stop."""


@frozen
class Hang:
    """Only heartbeats from here on, for ever, as when a task of a real server died."""


Step: TypeAlias = Pause | Say | Think | Stream | Call | Together | Ping | Close | Fail | Cut | Hang


@frozen
class Script:
    """What one agent does when it is asked: its steps, then its output (any JSON, or Words of the query)."""

    steps: tuple[Step, ...] = field(default=(), converter=_steps)
    output: Any = field(default="", kw_only=True)


# ----------------------------------------------------------------------------------------------------- The trip planner

AGENTS: Mapping[str, Any] = {
    "name": "trip_planner",
    "type": "agent",
    "children": [
        {
            "name": "flight_agent",
            "type": "agent",
            "children": [{"name": "search_flights", "type": "tool"}, {"name": "baggage_rules", "type": "tool"}],
        },
        {
            "name": "hotel_agent",
            "type": "agent",
            "children": [
                {"name": "search_hotels", "type": "tool"},
                {
                    "name": "review_agent",
                    "type": "agent",
                    "children": [{"name": "read_reviews", "type": "tool"}],
                },
            ],
        },
        {"name": "price_history", "type": "tool"},
        {"name": "add_up", "type": "tool"},
    ],
}

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

SCRIPTS: Mapping[str, Script] = {
    "trip": TRIP,
    "echo": Script(output=Words.REST),
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
        output="5 20 HELLO",
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
    "odd": Script(  # all that a client must not trip over; "done" is what the oldest dialect says at the end
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
