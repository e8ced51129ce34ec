"""A client of httpx or httpx2 that gives each request to its transport as it is.

What a client does beside that takes a third of the time of a short call: it merges headers, cookies and parameters,
runs an auth flow, and prepares the request that would follow a redirect.

Rule: the wire is that of the library's client: its default headers, `host`, `content-length`, and credentials of the
    URL as basic authentication. So is its line in the log. No cookie is kept.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from oxygent_client._core.transport import BufferedChunks

WITH_BODY: Final = ("POST", "PUT", "PATCH")
"""The methods whose requests have a `content-length` also if their body is empty."""
FRAMING: Final = frozenset((b"content-length", b"transfer-encoding"))
"""The headers that tell where a body ends; a request has one of them."""

_header_name: Final = functools.lru_cache(maxsize=256)(str.encode)
"""A name in bytes; the library keeps it as long as the response."""


@functools.cache
def direct_client(library: Any) -> type[Any]:
    """Return the class of the clients; `library` is `httpx` or `httpx2`."""
    log = logging.getLogger(library.__name__)

    class Upload(library.AsyncByteStream):  # type: ignore[misc]  # the library is an argument
        """A body that is sent once and then dropped: it may be large, and the library keeps what it was given."""

        def __init__(self, content: bytes) -> None:
            self._content = content
            self.size: Final = len(content)

        def __aiter__(self) -> AsyncIterator[bytes]:
            content, self._content = self._content, b""
            return BufferedChunks(content)

    class Stream:
        """The block of one request, in a tenth of the memory of a generator."""

        __slots__ = ("_request", "_response", "_transport")

        def __init__(self, transport: Any, request: Any) -> None:
            self._transport = transport
            self._request: Any = request
            self._response: Any = None

        async def __aenter__(self) -> Any:
            request, self._request = self._request, None  # an idle stream holds only what it still needs
            response = self._response = await self._transport.handle_async_request(request)
            try:
                log.info(
                    'HTTP Request: %s %s "%s %d %s"',
                    request.method,
                    request.url,
                    response.http_version,
                    response.status_code,
                    response.reason_phrase,
                )
            except BaseException:  # a filter of the user's may raise
                await response.aclose()
                raise
            return response

        async def __aexit__(self, *_: object) -> None:
            await self._response.aclose()

    class DirectClient(library.AsyncClient):  # type: ignore[misc]  # the library is an argument
        """A client whose `stream` is the only method that sends a request."""

        upload: Final = Upload
        """Make the `content` of a request."""

        def __init__(self, transport: Any, timeout: Any, *, closes_at_once: bool) -> None:
            library.AsyncClient.__init__(self, transport=transport, timeout=timeout, trust_env=False)
            self.closes_at_once: Final = closes_at_once
            """Whether closing its exchanges does not wait, so that no cancellation can interrupt it."""
            self._direct = transport
            self._defaults: Final = [(name, value, name.lower()) for name, value in self.headers.raw]
            self._time_outs: Final = timeout.as_dict()
            self._last: tuple[str, Any] = "", None  # the URL of most requests

        def stream(
            self,
            method: str,
            url: str,
            *,
            headers: Mapping[str, str],
            content: Any,
            extensions: Mapping[str, Any],
            **_options: Any,
        ) -> Stream:
            """As `AsyncClient.stream`; the time-outs are those of the client, and no redirect is followed."""
            return Stream(self._direct, self._request(method, url, headers, content, extensions))

        def _request(
            self, method: str, url: str, headers: Mapping[str, str], content: Any, extensions: Mapping[str, Any]
        ) -> Any:
            if url != self._last[0]:
                self._last = url, library.URL(url)
            parsed = self._last[1]
            lines = [(_header_name(name), value.encode()) for name, value in headers.items()]
            given = {name.lower() for name, _ in lines}
            lines += [(name, value) for name, value, key in self._defaults if key not in given]
            if b"host" not in given:
                lines.insert(0, (b"Host", parsed.netloc))
            if given.isdisjoint(FRAMING) and (content.size or method.upper() in WITH_BODY):
                lines.append((b"Content-Length", b"%d" % content.size))
            request = library.Request(
                method,
                parsed,
                headers=lines,
                stream=content,
                extensions={"timeout": self._time_outs, **extensions},
            )
            if parsed.username or parsed.password:
                return next(library.BasicAuth(parsed.username, parsed.password).auth_flow(request))
            return request

    return DirectClient
