"""Check a client or session that the user passed in.

Rule 1: the class is checked when the transport is made, the event loop before anything is sent.
Rule 2: no library is imported here; a class is recognised by the package that it, or one of its bases, comes from.
Rule 3: an object of another kind is accepted if it has the attributes of a client that the transport uses, so that a
    program can wrap a client.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import Final
from weakref import WeakKeyDictionary, ref

from oxygent_client._core.errors import ConfigurationError
from oxygent_client._core.per_loop import this_loop

ACCEPTED_BY: Final = {
    "httpx": "HTTPXTransport(client=...)",
    "httpx2": "HTTPX2Transport(client=...)",
    "aiohttp": "AiohttpTransport(session=...)",
}
"""The argument that accepts an asynchronous client of each library."""

_LOOPS: Final[WeakKeyDictionary[object, ref[object]]] = WeakKeyDictionary()
"""The event loop in which each client was first used. Several transports may share a client."""


def check_class(given: object, cls: type, argument: str, uses: Collection[str]) -> None:
    """Check that `given` is a `cls`, or an object of no HTTP library that has the attributes `uses`.

    Raises:
        ConfigurationError: it is neither; the text names the class to pass, and the transport that accepts `given`, if
            there is one.
    """
    actual = given if isinstance(given, type) else type(given)
    packages = [each.__module__.partition(".")[0] for each in actual.__mro__]
    package = next((each for each in packages if each in ACCEPTED_BY), packages[0])
    is_wrapper = package not in ACCEPTED_BY and actual is not given and all(hasattr(given, name) for name in uses)
    if isinstance(given, cls) or is_wrapper:
        return
    wanted = cls.__module__.partition(".")[0]
    text = f"{argument} must be an instance of {wanted}.{cls.__name__}, not {package}.{actual.__name__}"
    other = ACCEPTED_BY.get(package) if package != wanted else None
    raise ConfigurationError(f"{text}; pass it to {other}" if other else text)


def check_loop(own: object, argument: str, made_in: object = None) -> None:
    """Check that this client may be used in the running event loop, and bind it to that loop.

    `made_in` is the event loop to which the library has bound it; None if the library does not tell.

    Raises:
        ConfigurationError: it was used in another event loop, where its connections are.
    """
    here = this_loop()
    known = made_in or here
    if made_in is None:
        with suppress(TypeError):  # a wrapper that has no hash, or takes no weak reference
            known = _LOOPS.setdefault(own, ref(here))()
    if known is not here:
        raise ConfigurationError(
            f"{argument} belongs to another event loop: create one in each loop (in each asyncio.run), or let the"
            " transport create its own"
        )
