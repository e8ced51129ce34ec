"""Test your code without a server: a scripted transport, and a toy remote to talk to."""

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
from oxygent_client.testing._fake import (
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
from oxygent_client.testing._forget import forget_runs
from oxygent_client.testing._peer import Peer
from oxygent_client.testing._promises import TRANSPORT_PROMISES
from oxygent_client.testing._toy import ToyRemote

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
    "text",
    "tool_call",
]
