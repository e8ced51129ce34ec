"""Validation of messages: problems are listed in the event's `problems`, or raised as an error."""

from __future__ import annotations

import logging
import pickle
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

import attrs
import pytest

from oxygent_client import Answer, Custom, Event, OxyRequest, SSEOxyGent, Text, errors
from oxygent_client._protocol.schema import check
from oxygent_client.testing import FakeTransport, answer, close, message, text
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import Callable


def refuses(error: Exception) -> Callable[[Any], NoReturn]:
    """A validator that rejects each message."""

    def validate(said: Any) -> NoReturn:
        raise error

    return validate


def accepts(said: Any) -> object:
    """A validator that accepts each message and returns a value."""
    return {"ignored": said}


class Rows(ValueError):
    """An error like pydantic's: a list of problems, and a text that quotes a part of the message."""

    def __init__(self, *rows: tuple[tuple[str | int, ...], str]) -> None:
        super().__init__("input_value='CANA...', input_type=str")
        self._rows = rows

    def errors(self, *, include_url: bool, include_context: bool, include_input: bool) -> list[dict[str, Any]]:
        """Return the problems."""
        assert not any((include_url, include_context, include_input))
        return [{"loc": loc, "msg": text} for loc, text in self._rows]


NUMBERS: Final = refuses(Rows((("content", "value"), "no number"), (("content", "rows", 0), "no row")))


class Listed(ValueError):
    """An error of another library with a method `errors`."""

    def errors(self) -> list[str]:
        """Return something else than pydantic's."""
        return ["other"]


def event(said: Any) -> Event:
    """Return the event of a message."""
    if isinstance(said, str):
        return Text(None, said, said)
    return Custom(said.get("type"), said.get("content"), said)


METRICS: Final = {"type": "metrics", "content": {"value": "CANARY", "token": "CANARY"}}
CHECKED: Final[list[tuple[tuple[str, ...], Any, dict[Any, Any]]]] = [
    # expected problems; message, schema
    ((), METRICS, {}),
    ((), METRICS, {"other": refuses(ValueError("no"))}),
    ((), METRICS, {"metrics": accepts}),
    (("no",), METRICS, {"metrics": refuses(ValueError("no"))}),
    (("no",), METRICS, {"metrics": refuses(TypeError("no"))}),
    (("KeyError",), METRICS, {"metrics": refuses(type("KeyError", (ValueError,), {})())}),
    (("no",), METRICS, {None: refuses(ValueError("no"))}),
    ((), METRICS, {"metrics": accepts, None: refuses(ValueError("no"))}),
    (("no",), "plain", {None: refuses(ValueError("no"))}),
    (("no",), {"no": "type"}, {None: refuses(ValueError("no"))}),
    (("a\\x0a\\x1b[2J",), METRICS, {"metrics": refuses(ValueError("a\n\x1b[2J"))}),
    (("x" * 300,), METRICS, {"metrics": refuses(ValueError("x" * 10_000))}),
    (
        ("got '[scrubbed]', no password=[scrubbed]",),
        METRICS,
        {"metrics": refuses(ValueError("got 'CANARY', no password=x"))},
    ),
    (("in a [scrubbed]",), {"list": [{"api_key": "CANARY"}]}, {None: refuses(ValueError("in a CANARY"))}),
    (("listed",), METRICS, {"metrics": refuses(Listed("listed"))}),
    (("content.value: no number", "content.rows.0: no row"), METRICS, {"metrics": NUMBERS}),
    (("the message: no object",), "x", {None: refuses(Rows(((), "no object")))}),
]


@pytest.mark.parametrize(("expected", "said", "schema"), CHECKED, ids=range(len(CHECKED)))
def test_problems(expected: tuple[str, ...], said: Any, schema: dict[Any, Any]) -> None:
    """The validator for the message's type, or for None, lists problems; their text is safe to show."""
    before = event(said)
    after = check(before, schema)
    assert after.problems == expected
    assert before == after
    assert type(before) is type(after)
    assert after.message == said
    assert "CANARY" not in repr(after.problems)


def test_the_number_of_problems() -> None:
    """The number of problems is bounded."""
    rows = Rows(*((("content", number), "no row") for number in range(1000)))
    assert len(check(event(METRICS), {"metrics": refuses(rows)}).problems) == 20


def test_too_many_secrets() -> None:
    """The text of a problem is not shown if the message has more secrets than are searched for."""
    said = [{"token": f"CANARY{number}"} for number in range(101)]
    schema: dict[Any, Any] = {None: refuses(ValueError("no CANARY7"))}
    after = check(Custom(None, said, {"content": said}), schema)
    assert after.problems == ("invalid (details are not shown: the message has too many secrets)",)


def test_a_validator_of_pydantic() -> None:
    """The list of a pydantic error is used without the values that it quotes."""
    pydantic: Any = pytest.importorskip("pydantic")
    figures = pydantic.create_model("Figures", value=(int, ...), token=(int, 0))
    metrics = pydantic.create_model("Metrics", content=(figures, ...))
    why = "Input should be a valid integer, unable to parse string as an integer"
    wrong = check(event(METRICS), {"metrics": metrics.model_validate})
    assert wrong.problems == (f"content.value: {why}", f"content.token: {why}")
    right = check(event({"type": "metrics", "content": {"value": 1}}), {"metrics": metrics.model_validate})
    assert right.problems == ()


def test_a_validator_gets_a_copy() -> None:
    """A validator gets a copy: its changes do not reach the event."""

    def spoils(said: Any) -> None:
        said["content"]["value"] = 1
        said.clear()

    said = {"type": "metrics", "content": {"value": "x"}}
    assert check(event(said), {"metrics": spoils}).message == {"type": "metrics", "content": {"value": "x"}}


def test_a_validator_that_fails() -> None:
    """A validator that raises another error rejects the message, and the error's text is not shown."""
    assert check(event(METRICS), {"metrics": refuses(KeyError("CANARY"))}).problems == (
        "the validator raised KeyError",
    )


def test_an_event_with_problems() -> None:
    """An event with problems shows them, keeps them when pickled, and is equal to its copy."""
    right = Answer("answer", "42", {"type": "answer", "content": "42"})
    wrong = attrs.evolve(right, problems=("odd",))
    assert repr(right) == "Answer(type='answer', content='42')"
    assert repr(wrong) == "Answer(type='answer', content='42', problems=('odd',))"
    assert right == wrong
    assert pickle.loads(pickle.dumps(wrong)).problems == ("odd",)
    assert pickle.loads(pickle.dumps(right)).problems == ()


# ------------------------------------------------------------------------------------------------------------ In a run


def agent(schema: Any, *, strict: bool = False) -> SSEOxyGent:
    """Return an agent whose remote sends an invalid message between valid ones."""
    steps = (text("hello"), message(METRICS), answer("42"), close())
    made = SSEOxyGent(server_url="http://remote.test", transport=FakeTransport.script(*steps))
    made.schema = schema
    made.strict = strict
    return made


async def test_a_run_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """An invalid message is an event with problems and one warning, and the run goes on."""
    with caplog.at_level(logging.WARNING):
        async with agent({"metrics": NUMBERS, "answer": accepts}).stream("x") as run:
            events = [event async for event in run]
    assert [len(event.problems) for event in events] == [0, 2, 0]
    assert run.response.output == "42"
    assert ["metrics" in record.getMessage() for record in caplog.records] == [True]
    assert "CANARY" not in caplog.text


async def test_a_strict_run_ends() -> None:
    """With `strict` an invalid message raises an error that holds the event, which is not forwarded."""
    heard: list[Any] = []

    async def send(said: Any) -> None:
        heard.append(said)

    request = OxyRequest(arguments={"query": "x"})
    cast("Any", request).send_message = send
    with pytest.raises(
        errors.MalformedResponseError, match=r"'metrics' is not valid: content\.value: no number"
    ) as caught:
        await agent({"metrics": NUMBERS}, strict=True).ask(request)
    assert caught.value.outcome is errors.Outcome.STARTED
    assert caught.value.partial is not None
    assert [len(event.problems) for event in caught.value.partial.events][:2] == [0, 2]
    assert heard == ["hello"]


async def test_strict_without_problems() -> None:
    """`strict` changes nothing for valid messages."""
    assert (await agent({"metrics": accepts}, strict=True).ask("x")).output == "42"
