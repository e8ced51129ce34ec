"""What the package keeps between calls holds no secret: no cache grows with what differs only in a secret.

The cache of `urllib.parse.urlsplit` is the standard library's, and holds whole URLs of any program.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import pytest

from oxygent_client import SSEOxyGent
from oxygent_client._core.ids import new_id
from oxygent_client._core.transport import MOST_USUAL, _usual, redact_url
from oxygent_client.policies import APIKey
from oxygent_client.testing import FakeTransport, answer, close

if TYPE_CHECKING:
    from collections.abc import Callable

RUN: Final = answer("42"), close()


def of_url(secret: str) -> dict[str, Any]:
    """An agent whose URL has a secret in its user information and in its query."""
    return {"server_url": f"https://user:{secret}@remote.test/base?api_key={secret}"}


def of_header(secret: str) -> dict[str, Any]:
    """An agent with a secret in a header."""
    return {"server_url": "https://remote.test", "headers": {"authorization": f"Bearer {secret}"}}


def of_policy(secret: str) -> dict[str, Any]:
    """An agent with a policy that adds a secret."""
    return {"server_url": "https://remote.test", "auth": APIKey(secret)}


def kept() -> dict[str, int]:
    """The number of entries of each cache of the package."""
    found: dict[str, int] = {}
    for module_name, module in [*sys.modules.items()]:
        if module_name.partition(".")[0] == "oxygent_client":
            for name, value in vars(module).items():
                each: Any = value
                if callable(getattr(each, "cache_info", None)) and each is not urlsplit:
                    found[f"{module_name}.{name}"] = each.cache_info().currsize
                elif type(value) in (dict, set) and not name.startswith("__"):
                    found[f"{module_name}.{name}"] = len(each)
    return found


@pytest.mark.parametrize("settings", [of_url, of_header, of_policy], ids=["the URL", "a header", "a policy"])
async def test_caches(settings: Callable[[str], dict[str, Any]]) -> None:
    """After a first call, calls with other secrets add nothing to any cache."""

    async def call(secret: str) -> None:
        agent = SSEOxyGent(transport=FakeTransport.script(*RUN), **settings(secret))
        assert (await agent.ask("hi")).output == "42"
        assert secret not in repr(agent)

    await call(new_id(20))
    before = kept()
    for _ in range(3):
        await call(new_id(20))
    assert {name: size for name, size in kept().items() if size != before.get(name)} == {}
    assert len(before) > 10


def test_many_servers() -> None:
    """The URLs that are remembered are few, however many servers a program calls."""
    for number in range(2 * MOST_USUAL):
        url = f"http://host-{number}.test"
        assert redact_url(url) == url
    assert 0 < len(_usual) <= MOST_USUAL
