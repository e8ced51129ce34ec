"""The secrets that a run has sent, collected in one object and redacted in each shown text."""

from __future__ import annotations

import base64
import copy
import pickle
from typing import TYPE_CHECKING, Any, Final

import attrs
import pytest

from oxygent_client import errors
from oxygent_client._core.log import log_event, logger
from oxygent_client._core.sent_secrets import SentSecrets
from oxygent_client._core.transport import Context, HTTPRequest
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CANARY: Final = "canary/7+q9"

CARRIED: Final[dict[str, tuple[str, Mapping[str, str], str, str]]] = {
    # the URL and the headers of a request; the server's text; the shown text
    "a field of the query": ("https://h/?code=canary+x9z", {}, "no canary+x9z", "no [scrubbed]"),
    "a field of the query, read": ("https://h/?code=canary+x9z", {}, "no canary x9z", "no [scrubbed]"),
    "a field without =": ("https://h/?canarytoken", {}, "no canarytoken", "no [scrubbed]"),
    "a field behind a semicolon": ("https://h/?a=1;code=canary77", {}, "no canary77", "no [scrubbed]"),
    "a field with a semicolon": ("https://h/?code=canary;77", {}, "no canary;77", "no [scrubbed]"),
    "small escapes": ("https://h/?code=canary%2Fab%3D", {}, "no canary%2fab%3d", "no [scrubbed]"),
    "large escapes": ("https://h/?code=canary%2fab%3d", {}, "no canary%2Fab%3D", "no [scrubbed]"),
    "a cookie in quotes": ("https://h", {"cookie": 'a="canary-7"'}, "no canary-7", "no [scrubbed]"),
    "a part of a digest": ("https://h", {"authorization": 'Digest u="a", x="canary-7"'}, "canary-7", "[scrubbed]"),
    "user information in base64": ("https://ada:pw@h", {}, base64.b64encode(b"ada:pw").decode(), "[scrubbed]"),
}  # fmt: skip


@pytest.mark.parametrize(("url", "headers", "said", "shown"), CARRIED.values(), ids=CARRIED)
def test_secrets_of_a_request(url: str, headers: Mapping[str, str], said: str, shown: str) -> None:
    """A request collects its secrets when it is made."""
    request = HTTPRequest("POST", url, "/sse/chat", headers)
    assert request.context.sent.shown(said, 80) == shown


def test_a_request_made_of_another() -> None:
    """Secrets added by a policy, or dropped by a redirect, are known to all requests with the context."""
    first = HTTPRequest("POST", "https://h/?code=canary-one", "/x")
    second = attrs.evolve(first, base_url="https://h", headers={"x-api-key": "canary-two"})
    assert second.context.sent is first.context.sent
    assert first.context.sent.clean("canary-one, canary-two") == "[scrubbed], [scrubbed]"


def test_a_text_is_redacted_before_it_is_cut() -> None:
    """A text is redacted before it is cut, so that no part of a secret is shown."""
    sent = SentSecrets()
    sent.note(headers={"x-api-key": CANARY})
    assert sent.shown(f"12345 {CANARY}\x1b", 10) == "12345 [scr"


def test_our_own_texts() -> None:
    """Our own texts keep a word that equals a short secret, and lose a long secret."""
    sent = SentSecrets()
    sent.note("https://server:canary-word@h")
    assert sent.strip_text("the server said canary-word") == "the server said [scrubbed]"
    assert sent.clean("the server said canary-word") == "the [scrubbed] said [scrubbed]"


def test_texts_of_an_error() -> None:
    """The text and body of an error are redacted; other arguments are unchanged."""
    sent = SentSecrets()
    sent.note(headers={"x-api-key": CANARY})
    error = errors.StatusError(f"no {CANARY}", body=f"bad {CANARY}")
    error.args = (*error.args, 7)
    sent.strip_error(error)
    assert error.args == ("no [scrubbed]", 7)
    assert error.body == "bad [scrubbed]"


WAYS: Final[dict[str, Callable[[SentSecrets], SentSecrets]]] = {
    "copied": copy.deepcopy,
    "pickled": lambda sent: pickle.loads(pickle.dumps(sent)),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_copies(way: Callable[[SentSecrets], SentSecrets]) -> None:
    """A pickled copy has no secrets."""
    sent = SentSecrets()
    sent.note(headers={"x-api-key": CANARY})
    assert way(sent).values() == set()


def test_records_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Texts and errors in the arguments or fields of a log record are redacted; numbers stay numbers."""
    context = Context()
    context.sent.note(headers={"x-api-key": CANARY})
    with caplog.at_level("DEBUG", logger=logger.name):
        log_event("warning", context, "%s, %s, %d", CANARY, errors.OxyError(CANARY), 7, reason=CANARY, attempt=2)
    (record,) = caplog.records
    fields: dict[str, Any] = vars(record)
    assert record.getMessage() == "[scrubbed], [scrubbed], 7"
    assert fields["reason"] == "[scrubbed]"
    assert fields["attempt"] == 2
