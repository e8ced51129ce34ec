"""Blocks of the OxyGent `SSEOxyGent` documentation over real sockets: with aiohttp, and one unchanged.

Rule: loopback only. A proxy from the environment resolves the names of the documentation's servers, and their
    certificates are of an authority made for the test.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import anyio
import pytest
import trustme

from oxygent_client import OxyState
from oxygent_client.testing import answer, close, observation, progress, tool_call
from tests.agent.test_documentation import documented
from tests.conftest import ROOT
from tests.support.documentation import LOCAL, Program
from tests.support.servers import LAST, OK, Conversation, chunk, closed_port, play, serving

if TYPE_CHECKING:
    from pathlib import Path

EVENTS: Final = (
    tool_call("master", caller="user"),
    progress(45),
    tool_call("search", call_stack=["user", "master", "search"]),
    observation("search", 3, call_stack=["user", "master", "search"]),
    answer("42"),
    close(),
)
STREAM: Final = OK + b"".join(map(chunk, EVENTS)) + LAST


@pytest.mark.parametrize("is_shared", [True, False])
async def test_the_documented_execute_with_aiohttp(is_shared: bool) -> None:
    """The documentation's `_execute`, with aiohttp and a server, finds and forwards what our agent does."""
    async with serving(play(STREAM)) as server:
        theirs = documented(aiohttp=aiohttp)(server_url=server.url, name="me")
        theirs.is_share_call_stack = is_shared
        made = Program({})
        ours = made.base(server_url=server.url, name="me", is_share_call_stack=is_shared)
        shown: list[list[Any]] = []
        for agent in (theirs, ours):
            response = await agent.execute(made.request())
            assert response.state is OxyState.COMPLETED
            assert response.output == "42"
            shown.append([*made.heard])
            made.heard.clear()
    assert shown[0] == shown[1]
    stack = ["user", "master", "search"] if is_shared else [*LOCAL, "me", "search"]
    assert shown[0][1]["content"]["call_stack"] == stack
    assert [request.line for request in server.requests] == ["POST /sse/chat HTTP/1.1"] * 2


ERRORS: Final[dict[str, tuple[str | None, float]]] = {
    # the server's behaviour: (the logged line, the total time-out; the block has an hour)
    "answers": (None, 30.0),
    "is not there": ("SSE connection error: Cannot connect to host", 30.0),
    "never answers": ("SSE stream timeout", 0.1),
}


@pytest.mark.parametrize("server", ERRORS)
async def test_error_recovery(server: str) -> None:
    """The block logs a time-out and a refused connection, each by its own line, and nothing for a good stream."""
    expected, within = ERRORS[server]
    hours: list[float] = []

    def shortened(*, total: float) -> aiohttp.ClientTimeout:
        hours.append(total / 3600)
        return aiohttp.ClientTimeout(total=within)

    logged: list[str] = []
    library = {name: getattr(aiohttp, name) for name in ("ClientError", "ClientSession")}
    async with serving(play([anyio.Event()] if server == "never answers" else STREAM)) as running:
        made = Program({})
        made.names |= {
            "aiohttp": SimpleNamespace(**library, ClientTimeout=shortened),
            "logger": SimpleNamespace(error=logged.append),
            "url": f"http://127.0.0.1:{closed_port()}/" if server == "is not there" else running.url,
            "kwargs": {"data": b"{}"},
        }
        await made.run("error_recovery")
    assert hours == [1.0]
    assert [line[: len(expected or "")] for line in logged] == [expected] * (expected is not None)


# ------------------------------------------------------------------------------------------------------------ Unchanged

HOST: Final = "oxygent-instance.company.com"
AS_IT_STANDS: Final = """
import ast, sys
import anyio
from oxygent_client import SSEOxyGent
from tests.support.documentation import BLOCKS, framework

async def main():
    names = {}
    code = compile(BLOCKS["remote_communication"], "block", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    with framework(SSEOxyGent):
        await eval(code, names)
    agent = names["remote_assistant"]
    assert type(agent) is SSEOxyGent
    print([member["name"] for member in agent.get_org()], (await agent.ask("hi")).output)

anyio.run(main, backend=sys.argv[1])
"""


def document(value: Any, status: str = "200 OK") -> bytes:
    """Return a JSON document as a server sends it."""
    body = json.dumps(value).encode()
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


ORGANIZATION: Final = {"name": "master", "type": "agent", "children": [{"name": "search", "type": "tool"}]}
ANSWERS: Final = {
    "/get_organization": document({"code": 200, "data": {"id_dict": {}, "organization": ORGANIZATION}}),
    "/sse/chat": STREAM,
}


async def remote(conversation: Conversation) -> None:
    """Serve as the documentation's example expects."""
    while (request := await conversation.request()) is not None:
        await conversation.send(
            ANSWERS.get(request.line.split()[1], document({"detail": "Not Found"}, "404 Not Found"))
        )


@pytest.mark.seconds
async def test_unchanged_through_a_proxy(anyio_backend_name: str, tmp_path: Path) -> None:
    """With its own https URL, unchanged, the example reaches the remote through the environment's proxy."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(context)  # pyright: ignore[reportUnknownMemberType]  (trustme types it by another package)
    trusted = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(trusted))

    async with serving(remote, tls=context) as server:

        async def tunnel(conversation: Conversation) -> None:
            """A proxy that resolves one name."""
            if await conversation.request() is None:
                return
            async with await anyio.connect_tcp("127.0.0.1", server.port) as there, anyio.create_task_group() as tasks:
                await conversation.send(b"HTTP/1.1 200 OK\r\n\r\n")

                async def back() -> None:
                    async for data in there:
                        await conversation.send(data)

                tasks.start_soon(back)
                while data := await conversation.some():
                    await there.send(data)
                tasks.cancel_scope.cancel()

        async with serving(tunnel) as proxy:
            kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
            environment = {**kept, "HTTPS_PROXY": proxy.url, "SSL_CERT_FILE": str(trusted)}
            command = [sys.executable, "-W", "error", "-c", AS_IT_STANDS, anyio_backend_name]
            done = await anyio.run_process(command, env=environment, cwd=ROOT, check=False)
    assert (done.stdout, done.returncode) == (b"['search'] 42\n", 0), done.stderr.decode()
    assert {request.line for request in proxy.requests} == {f"CONNECT {HOST}:443 HTTP/1.1"}
    assert server.requests[0].line == "GET /get_organization HTTP/1.1"
    assert server.requests[-1].line == "POST /sse/chat HTTP/1.1"
    assert {request.headers["host"] for request in server.requests} == {HOST}
