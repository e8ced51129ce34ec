"""What moves bytes. Each module here knows one library, and none knows another; import the one you want.

`oxygent_client.transports.httpx` (the default) and `oxygent_client.transports.asgi` (in process) need nothing but the
core; `oxygent_client.transports.httpx2` and `oxygent_client.transports.aiohttp` need the extra of their name.
"""
