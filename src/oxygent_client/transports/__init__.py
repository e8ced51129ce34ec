"""Transports: one module per HTTP library.

`oxygent_client.transports.httpx` (the default) and `oxygent_client.transports.asgi` (in process) need only the core
dependencies; `oxygent_client.transports.httpx2` and `oxygent_client.transports.aiohttp` need the extra of their name.
To write a transport, implement the `Transport` protocol, with the requests and responses defined here.
"""

from oxygent_client._core.transport import Context, HTTPRequest, HTTPResponse, Purpose, Transport

__all__ = ["Context", "HTTPRequest", "HTTPResponse", "Purpose", "Transport"]
