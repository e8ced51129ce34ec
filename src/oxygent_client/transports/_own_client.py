"""Check a client or session that the user passed in.

Rule 1: the class is checked when the transport is made, the event loop before anything is sent.
Rule 2: nothing here imports a library; a class is known by the package that it, or a base of it, comes from.
Rule 3: an object of another kind is taken if it has what is used of a client, so that a program can wrap one.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import Final
from weakref import WeakKeyDictionary, ref

from oxygent_client._core.errors import ConfigurationError
from oxygent_client._core.per_loop import this_loop

__all__ = ["check_class", "check_loop"]

PLACES: Final = {
    "httpx": "HTTPXTransport(client=...)",
    "httpx2": "HTTPX2Transport(client=...)",
    "aiohttp": "AiohttpTransport(session=...)",
}
"""Where an asynchronous client of each library goes."""

_LOOPS: Final[WeakKeyDictionary[object, ref[object]]] = WeakKeyDictionary()
"""The event loop in which each client was first used. Several transports may have one client."""


def check_class(given: object, cls: type, argument: str, uses: Collection[str]) -> None:
    """Nothing, if `given` is a `cls`, or an object of no HTTP library that has the attributes `uses`.

    Raises:
        ConfigurationError: it is not; the text names the class that is wanted, and the right transport if there is one.
    """
    theirs = given if isinstance(given, type) else type(given)
    packages = [each.__module__.partition(".")[0] for each in theirs.__mro__]
    package = next((each for each in packages if each in PLACES), packages[0])
    alike = package not in PLACES and theirs is not given and all(hasattr(given, name) for name in uses)
    if isinstance(given, cls) or alike:
        return
    wanted = cls.__module__.partition(".")[0]
    text = f"{argument} must be an instance of {wanted}.{cls.__name__}, not {package}.{theirs.__name__}"
    other = PLACES.get(package) if package != wanted else None
    raise ConfigurationError(f"{text}; that goes into {other}" if other else text)


def check_loop(own: object, argument: str, made_in: object = None) -> None:
    """Nothing, if this client may be used in the running event loop; from now on only there.

    `made_in` is the event loop that the library has bound it to; None if it does not say.

    Raises:
        ConfigurationError: it has been used in another one, where its connections are.
    """
    here = this_loop()
    known = made_in or here
    if made_in is None:
        with suppress(TypeError):  # a wrapper that has no hash, or takes no weak reference
            known = _LOOPS.setdefault(own, ref(here))()
    if known is not here:
        raise ConfigurationError(
            f"{argument} belongs to another event loop: make one for each loop (for each asyncio.run), or let the"
            " transport make its own"
        )
