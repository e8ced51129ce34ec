"""The error classes: the tree in the docstring, attributes, pickling, outcomes and `retryable`."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import types
from typing import Any, Final

import pytest

from oxygent_client import Answer, Outcome, OxyState, ServerSentEvent, errors
from oxygent_client._core import errors as _errors
from oxygent_client.errors import OxyError, Partial

CLASSES: Final[list[type[OxyError]]] = [
    value for value in vars(_errors).values() if inspect.isclass(value) and issubclass(value, OxyError)
]
NAMES: Final = {cls.__name__: cls for cls in CLASSES}  # an alias is no class of its own
each_class: Final = pytest.mark.parametrize("cls", NAMES.values(), ids=NAMES)

# ----------------------------------------------------------------------------------------------------------------- Tree

LINE: Final = re.compile(r"(?P<indent>[│├└─ ]*)(?P<name>[A-Z]\w+)(\((?P<builtin>\w+)\))?(?P<note>.*)")


def drawn() -> set[tuple[str, str]]:
    """Return pairs of a class and a base from the drawing: by indent, in parentheses, or as `an X too`."""
    _, picture, _ = str(_errors.__doc__).split("```")
    pairs: set[tuple[str, str]] = set()
    above: list[str] = []
    for text in picture.strip().splitlines():
        line = LINE.fullmatch(text)
        assert line is not None, text
        depth = len(line["indent"]) // 4
        above[depth:] = [line["name"]]
        if depth:
            pairs.add((line["name"], above[depth - 1]))
        pairs |= {
            (line["name"], other) for other in [line["builtin"], *re.findall(r"an? (\w+) too", line["note"])] if other
        }
    return pairs


def test_the_tree() -> None:
    """The classes and their bases are those of the drawing."""
    actual = {(cls.__name__, base.__name__) for cls in CLASSES for base in cls.__bases__}
    assert drawn() == actual


def test_attributes_in_the_drawing() -> None:
    """The attributes named in the drawing exist."""
    made = {name: cls("x") for name, cls in NAMES.items()}
    named = [
        (line["name"], attribute)
        for line in LINE.finditer(str(_errors.__doc__))
        for attribute in re.findall(r" \.(\w+)", line["note"])
    ]
    assert named == [
        ("StatusError", "status"),
        ("StatusError", "body"),
        ("StatusError", "retry_after"),
        ("EnvelopeError", "code"),
        ("RemoteAgentError", "state"),
        ("RemoteAgentError", "output"),
    ]
    assert all(hasattr(made[name], attribute) for name, attribute in named)


BUILTINS: Final[list[tuple[type[Exception], str]]] = [
    (ValueError, "ConfigurationError InsecureTransportError PayloadError UnknownCalleeError UnknownNodeError"),
    (ConnectionError, "ConnectError TLSError ConnectTimeoutError ConnectionLostError"),
    (
        TimeoutError,
        """OxyTimeoutError ConnectTimeoutError SilenceTimeoutError IdleTimeoutError DeadlineExceededError
        UnconfirmedError""",
    ),
]


@pytest.mark.parametrize(("builtin", "names"), BUILTINS)
def test_builtin_bases(builtin: type[Exception], names: str) -> None:
    """Each built-in base is the base of exactly these errors."""
    assert {*names.split()} == {cls.__name__ for cls in CLASSES if issubclass(cls, builtin)}


def test_the_alias() -> None:
    """The class that code for aiohttp catches has outcome NOT_SENT."""
    assert errors.ClientError is errors.ConnectError
    assert {cls.__name__ for cls in CLASSES if issubclass(cls, errors.ClientError)} == {
        "ConnectError",
        "TLSError",
        "ConnectTimeoutError",
    }


def test_the_public_names() -> None:
    """`errors` exports each class, the alias and the outcomes, in order, and nothing else."""
    assert sorted({*NAMES, "ClientError", "Outcome", "Partial"}) == sorted(errors.__all__) == errors.__all__
    shown = {name for name, value in vars(errors).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert shown == {*errors.__all__}
    assert all(getattr(errors, name) is getattr(_errors, name) for name in errors.__all__)


# --------------------------------------------------------------------------------------------------------------- Values

EVENT: Final = Answer("answer", 1, {"type": "answer", "content": 1}, ServerSentEvent(data="{}"))
KNOWN: Final[dict[str, Any]] = {
    "outcome": Outcome.STARTED,
    "trace_id": "t",
    "server_url": "http://127.0.0.1:8082",
    "attempts": 3,
    "partial": Partial(events=(EVENT,), text="so far", answer={"a": [1]}, dropped=7),
}
SAID: Final[dict[type[OxyError], dict[str, Any]]] = {
    OxyError: KNOWN,
    errors.StatusError: {"status": 503, "body": "busy", "retry_after": 1.5},
    errors.EnvelopeError: {"code": 403},
    errors.TooLargeError: {"events": (ServerSentEvent(data="x"),)},
    errors.RemoteAgentError: {"state": OxyState.CANCELED, "output": {"a": 1}},
}


def attributes_of(cls: type[OxyError]) -> dict[str, Any]:
    """Return a value for each attribute of this class."""
    return {name: value for base, more in SAID.items() if issubclass(cls, base) for name, value in more.items()}


def pickled(error: OxyError) -> Any:
    """Return the copy made by pickling."""
    return pickle.loads(pickle.dumps(error))


COPIES: Final = [pickled, copy.copy, copy.deepcopy]


@each_class
@pytest.mark.parametrize("make", COPIES)
def test_copies(cls: type[OxyError], make: Any) -> None:
    """A copy, also by pickling, has the same class, text and attributes."""
    known = attributes_of(cls)
    error = cls("it went wrong", **known)
    error.add_note("seen on a Tuesday")
    error.__dict__["added_by_a_subclass"] = [1]
    copied = make(error)
    assert type(copied) is cls
    assert str(copied) == "it went wrong"
    assert copied.args == ("it went wrong",)
    assert {name: getattr(copied, name) for name in known} == known
    assert error.__dict__ == copied.__dict__
    assert error.retryable == copied.retryable
    assert copied.__notes__ == ["seen on a Tuesday"]


class Mine(errors.StatusError):
    """A user's error with its own `__init__`."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} {two}", status=one)


@pytest.mark.parametrize("make", COPIES)
def test_copies_of_a_users_error(make: Any) -> None:
    """A user's subclass can be pickled."""
    copied = make(Mine(418, 2))
    assert type(copied) is Mine
    assert str(copied) == "418 2"
    assert copied.status == 418


@each_class
def test_default_attributes(cls: type[OxyError]) -> None:
    """An error raised with a text alone has all attributes, with neutral values."""
    error = cls("why")
    blank = {"trace_id": "", "server_url": "", "attempts": 1, "partial": None, "status": 0, "body": "", "code": None}
    blank |= {"retry_after": None, "events": (), "state": None, "output": None}
    assert {"outcome": cls.default_outcome} | {
        name: blank[name] for name in attributes_of(cls) if name in blank
    } == vars(error)
    assert str(cls()) == ""
    assert isinstance(type(error).retryable, property)


# ------------------------------------------------------------------------------------------------- Outcomes and retries

DEFAULT_OUTCOMES: Final[dict[Outcome, str]] = {
    Outcome.NOT_SENT: """
        ConfigurationError InsecureTransportError PayloadError UnknownCalleeError UnknownNodeError
        ConnectError TLSError ConnectTimeoutError NoHealthyReplicaError ClosedError
    """,
    Outcome.REJECTED: "RedirectError AuthenticationError PermissionDeniedError NotFoundError RateLimitedError",
    Outcome.UNKNOWN: """
        OxyError ConnectionLostError OxyTimeoutError SilenceTimeoutError IdleTimeoutError DeadlineExceededError
        StatusError ServerError RemoteProtocolError NotAnEventStreamError EnvelopeError MalformedResponseError
        TooLargeError IncompleteStreamError HandlerError
    """,
    Outcome.STARTED: "",
    Outcome.COMPLETED: "NoAnswerError RemoteAgentError UnconfirmedError",
}
TRANSIENT: Final = """
    ConnectError ConnectTimeoutError ConnectionLostError RateLimitedError ServerError NoHealthyReplicaError
""".split()


def test_default_outcomes() -> None:
    """The default outcome of each class."""
    expected = {name: outcome for outcome, names in DEFAULT_OUTCOMES.items() for name in names.split()}
    assert {name: cls("x").outcome for name, cls in NAMES.items()} == expected


@each_class
@pytest.mark.parametrize("outcome", Outcome)
def test_retryable(cls: type[OxyError], outcome: Outcome) -> None:
    """An error is retryable if it is transient and the run surely did not start."""
    expected = cls.__name__ in TRANSIENT and outcome in {Outcome.NOT_SENT, Outcome.REJECTED}
    assert cls("x", outcome=outcome).retryable == expected


def test_outcomes_are_str() -> None:
    """An outcome is a str, for logs and JSON."""
    assert [f"{outcome}" for outcome in Outcome] == ["not_sent", "rejected", "unknown", "started", "completed"]
    assert [Outcome(word) for word in ("not_sent", "rejected", "unknown", "started", "completed")] == [*Outcome]


def test_a_cause_is_kept() -> None:
    """A library's exception is the cause, and is not pickled."""

    def translate() -> None:
        try:
            raise KeyError("library")
        except KeyError as error:
            raise errors.ConnectError("no connection") from error

    with pytest.raises(errors.ConnectError) as caught:
        translate()
    assert isinstance(caught.value.__cause__, KeyError)
    assert isinstance(caught.value.__traceback__, types.TracebackType)
    assert pickled(caught.value).__cause__ is None
