"""Transports: one module per HTTP library.

`oxygent_client.transports.httpx` (the default) and `oxygent_client.transports.asgi` (in process) need nothing but the
core; `oxygent_client.transports.httpx2` and `oxygent_client.transports.aiohttp` need the extra of their name. What a
transport of your own needs is here: the `Transport` protocol, and the requests and responses that pass through it.
"""

from oxygent_client._core.transport import Context, HTTPRequest, HTTPResponse, Purpose, Transport

__all__ = ["Context", "HTTPRequest", "HTTPResponse", "Purpose", "Transport"]
