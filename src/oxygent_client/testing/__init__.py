"""Test kit: fake transports, cassettes, faults, a toy remote."""

from oxygent_client.testing import faults
from oxygent_client.testing._cassette import (
    Cassette,
    CassetteError,
    End,
    Entry,
    Failure,
    Piece,
    RecordingTransport,
    ReplayTransport,
    Scrub,
)
from oxygent_client.testing._check import (
    TransportCheckError,
    TransportReport,
    check_transport,
)
from oxygent_client.testing._check_server import Peer
from oxygent_client.testing._fake_transport import (
    FakeTransport,
    Pause,
    Reply,
    Step,
    Wait,
    answer,
    close,
    delta,
    heartbeat,
    message,
    observation,
    pause,
    progress,
    text,
    tool_call,
)
from oxygent_client.testing._forget_runs import forget_runs
from oxygent_client.testing._serve import serve
from oxygent_client.testing._toy_server import ToyRemote
from oxygent_client.testing._transport_checks import TRANSPORT_PROMISES

__all__ = [
    "TRANSPORT_PROMISES",
    "Cassette",
    "CassetteError",
    "End",
    "Entry",
    "Failure",
    "FakeTransport",
    "Pause",
    "Peer",
    "Piece",
    "RecordingTransport",
    "ReplayTransport",
    "Reply",
    "Scrub",
    "Step",
    "ToyRemote",
    "TransportCheckError",
    "TransportReport",
    "Wait",
    "answer",
    "check_transport",
    "close",
    "delta",
    "faults",
    "forget_runs",
    "heartbeat",
    "message",
    "observation",
    "pause",
    "progress",
    "serve",
    "text",
    "tool_call",
]
