"""The command `doctor`: options and output of a diagnosis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from oxygent_client.cli._exit_codes import UNHEALTHY
from oxygent_client.cli._options import AsJSON, Callee, Connection, Url, command, write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from oxygent_client.cli._doctor import Diagnosis


@command
def doctor(
    url: Url = None,
    *,
    query: Annotated[
        str | None,
        typer.Option(
            "--query", help="Run the agent with this query, to measure heartbeats and buffering.", metavar="TEXT"
        ),
    ] = None,
    callee: Callee = None,
    timeout: Annotated[
        float,
        typer.Option(
            help="Time limit in seconds for each request; a run gets three times as much without an event.",
            min=0.001,
            metavar="SECONDS",
        ),
    ] = 10.0,
    connection: Connection,
    json: AsJSON = False,
) -> int:
    """Diagnose the connection to a server: each problem has a code and a remedy. Runs no agent without --query."""
    import anyio

    from oxygent_client import HTTPXTransport
    from oxygent_client.cli._doctor import Doctor

    doctor = Doctor(
        settings=connection.settings(url, callee=callee),
        make_transport=lambda seconds: HTTPXTransport(connect=seconds),
        query=query,
        seconds=timeout,
    )
    return _show(anyio.run(doctor.examine), json=json)


def _show(diagnosis: Diagnosis, *, json: bool) -> int:
    """Print a diagnosis, and return the exit code."""
    from oxygent_client.cli._terminal_text import as_json

    if json:
        write(as_json(document(diagnosis)) + "\n")
    else:
        write("".join(f"{each}\n" for each in lines_of(diagnosis)))
    return 0 if diagnosis.is_healthy else UNHEALTHY


def document(diagnosis: Diagnosis) -> dict[str, object]:
    """Return a diagnosis for --json."""
    return {
        "kind": "diagnosis",
        "server_url": diagnosis.server_url,
        "healthy": diagnosis.is_healthy,
        "facts": diagnosis.facts,
        "findings": [finding.as_dict() for finding in diagnosis.findings],
    }


def lines_of(diagnosis: Diagnosis) -> Iterator[str]:
    """Return a diagnosis as lines of text: what was seen, the findings, the result."""
    from oxygent_client.cli._terminal_text import line

    facts = {"server": diagnosis.server_url, **diagnosis.facts}
    width = max(map(len, facts))
    for name, fact in facts.items():
        yield f"{name:{width}}  {line(fact)}"
    for finding in diagnosis.findings:
        yield f"\n{finding.code}  {finding.meaning}"
        if finding.detail:
            yield f"  {line(finding.detail)}"
        yield f"  {finding.remedy}"
    yield "\nhealthy" if diagnosis.is_healthy else "\nnot healthy"
