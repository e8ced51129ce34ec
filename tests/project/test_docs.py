"""README.md and docs/: programs run unchanged, and tables and figures are those of the code.

Rule 1: a block marked `python` is a whole program; a `text` block right after it is its output.
Rule 2: only the port is changed, to that of the toy remote.
Rule 3: requests of a program that only the remote sees are in SENT.
Rule 4: a figure of the code on a page is a line in FIGURES; a table of defaults, one in DEFAULTS.
"""

from __future__ import annotations

import ast
import contextlib
import html
import inspect
import io
import logging
import re
import socket
import subprocess
import sys
import threading
import tomllib
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, get_args

import attrs
import pytest
import uvicorn

from oxygent_client import BearerAuth, Limits, Retry, ServerSentEvent, Timeouts
from oxygent_client._agent.detached import START_SECONDS
from oxygent_client._api.catalog import DISCOVERY_SECONDS
from oxygent_client._protocol.failure_texts import FAILURES
from oxygent_client._protocol.messages import to_event
from oxygent_client._protocol.router import ROUTES
from oxygent_client._run.reconnect import FIRST_CHECK, FIRST_PAUSE, LONGEST_PAUSE
from oxygent_client._run.state import LEGACY_SILENCE
from oxygent_client.cli._app import app
from oxygent_client.cluster import Health, Strategy
from oxygent_client.policies import ORDER, Redirect
from oxygent_client.serve.relay import RelayLimits
from oxygent_client.telemetry import Stats
from oxygent_client.telemetry.otel import MOST_CALLS
from oxygent_client.testing import ToyRemote
from oxygent_client.testing._toy_server import QUEUE
from oxygent_client.testing.script import SCRIPTS
from oxygent_client.transports._http_base import KEEP_ALIVE_SECONDS
from tests.conftest import ROOT
from tests.project.test_public_names import MODULES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DOCS: Final = ROOT / "docs"
PAGES: Final = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])
BLOCK: Final = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?", re.DOTALL | re.MULTILINE
)
DOCUMENTED_URL: Final = "http://127.0.0.1:8082"


def programs() -> list[Any]:
    """Return each program, named by its line."""
    found: list[Any] = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            line = text.count("\n", 0, match.start("code")) + 1
            found.append(pytest.param(page, line, match["code"], match["output"], id=f"{page.name}:{line}"))
    return found


@pytest.fixture(scope="module")
def toy() -> Iterator[tuple[ToyRemote, str]]:
    """A toy remote on its own port, and its URL."""
    remote = ToyRemote(pace=0)
    server = uvicorn.Server(uvicorn.Config(remote, log_level="error", lifespan="off", loop="asyncio"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield remote, f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """Restore the logging configuration after a program."""
    loggers = [logging.getLogger(name) for name in (None, "oxygent_client")]
    before = [(log.level, log.propagate, [*log.handlers]) for log in loggers]
    yield
    for log, (level, propagate, handlers) in zip(loggers, before, strict=True):
        log.setLevel(level)
        log.propagate = propagate
        log.handlers[:] = handlers


def printed_by(page: Path, line: int, code: str, url: str) -> str:
    """Return the output of a program of the page."""
    printed = io.StringIO()
    # Padded, so that a traceback has the line of the page.
    program = compile("\n" * (line - 1) + code.replace(DOCUMENTED_URL, url), str(page), "exec", dont_inherit=True)
    with contextlib.redirect_stdout(printed):
        exec(program, {"__name__": "__main__"})
    return printed.getvalue()


@pytest.mark.seconds
@pytest.mark.parametrize(("page", "line", "code", "output"), programs())
def test_programs_of_the_docs(page: Path, line: int, code: str, output: str | None, toy: tuple[ToyRemote, str]) -> None:
    """A program of the docs runs and prints the output on the page."""
    printed = printed_by(page, line, code, toy[1])
    if output is not None:
        assert output == printed
    else:
        assert printed


SENT: Final[dict[str, tuple[dict[str, str], ...]]] = {
    # words of the one program that has them: headers of each of its runs, as patterns
    'BearerAuth.from_env("TRIPS_TOKEN")': ({"authorization": "Bearer t0p-secret"},),
    "BearerAuth(provider=fetch)": ({"authorization": r"Bearer eyJ\.\.\."},) * 3,
    'BasicAuth("ada", "pa55word")': ({"authorization": "Basic YWRhOnBhNTV3b3Jk"}, {"x-trips-key": "k3y"}),
    "Headers(signed)": ({"x-signature": "[0-9a-f]{64}"},),
    "BearerAuthTransport(HTTPXTransport()": ({"authorization": "Bearer t0p-secret"},),
    "AiohttpTransport(session=session)": ({"x-app": "trips", "user-agent": "oxygent-client/.*"},),
    "HTTPX2Transport(client=client)": ({"x-app": "trips", "user-agent": "oxygent-client/.*"},),
    "class Watched(SSEOxyGent)": ({"x-tenant": "acme"},),
    "OTelObserver(provider)": ({"traceparent": "00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}"},),
}


@pytest.mark.parametrize("words", SENT)
def test_requests_of_a_program(words: str, toy: tuple[ToyRemote, str]) -> None:
    """A program that adds headers sends them with each of its runs."""
    ((page, line, code, _),) = [each.values for each in programs() if words in each.values[2]]
    remote, url = toy
    before = len(remote.runs)
    printed_by(page, line, code, url)
    sent = [run.headers for run in remote.runs[before:]]
    assert len(sent) == len(SENT[words])
    for expected, headers in zip(SENT[words], sent, strict=True):
        assert [name for name, pattern in expected.items() if not re.fullmatch(pattern, headers.get(name, ""))] == []


TIMES: Final = re.compile(r"\d\.\d\s?s|(?<=trace\s)\w+")


def drawn(picture: Path) -> list[str]:
    """Return the texts of a drawing without varying parts."""
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", picture.read_text("utf-8"))
    return [TIMES.sub("", html.unescape(words)) for words in texts]


@pytest.mark.seconds
def test_the_picture_of_the_demonstration(tmp_path: Path) -> None:
    """The picture in the README is the output of the command."""
    path = tmp_path / "demo.svg"
    command = [sys.executable, "-m", "oxygent_client", "demo", "--fast", "--save-svg", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    kept = drawn(ROOT / "docs" / "assets" / "demo.svg")
    assert "trip_planner" in kept
    assert drawn(path) == kept


def test_the_docs_hold_programs() -> None:
    """The pages have programs, so that the test above is not empty."""
    assert {"README.md", "concepts.md", "tutorial.md"} <= {program.values[0].name for program in programs()}


# --------------------------------------------------------------------------------------------------- Tables and figures


def page_text(name: str) -> str:
    """Return a page with each white space as one space."""
    return " ".join((ROOT / name).read_text("utf-8").split())


def section(name: str, heading: str) -> str:
    """Return the text between this heading of a page and the next one."""
    text = "\n" + (ROOT / name).read_text("utf-8")
    assert f"\n{heading}\n" in text
    return re.split(r"^#+ ", text.partition(f"\n{heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def rows(name: str, heading: str) -> list[list[str]]:
    """Return the cells of all tables below this heading of a page, without their heads."""
    tables = re.findall(r"^\|[^\n]*\n\|[-:| ]+\n((?:\|[^\n]*\n)+)", section(name, heading), re.MULTILINE)
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for table in tables for line in table.splitlines()]


def names(cell: str) -> list[str]:
    """Return the texts in backquotes."""
    return re.findall(r"`([^`]+)`", cell)


DEFAULTS: Final[tuple[tuple[str, str, type[Any]], ...]] = (
    ("docs/concepts.md", "## Time-outs", Timeouts),
    ("docs/howto/retry-and-limit.md", "## Backoff", Retry),
    ("docs/howto/cluster.md", "## Health checks", Health),
)


@pytest.mark.parametrize(("page", "heading", "cls"), DEFAULTS)
def test_a_table_of_defaults(page: str, heading: str, cls: type[Any]) -> None:
    """The table has each field of the class with its default."""
    said = {
        name: float(value.split()[0])
        for fields, values, *_ in rows(page, heading)
        for name, value in zip(names(fields), values.split(","), strict=True)
    }
    assert {field.name: field.default for field in attrs.fields(cls)} == said


FIRST, SECOND, THIRD = (f"{FIRST_CHECK * 2**n:g}" for n in range(3))
WORDS: Final[dict[float, str]] = {3: "three", 10: "ten"}

FIGURES: Final = [
    # page, heading of the section, the figure of the code
    (
        "docs/comparison.md",
        "# Compared with the client inside OxyGent",
        f"{(Limits().event_bytes or 0) // 1024**2} MiB",
    ),
    ("docs/concepts.md", "## The end of a run", f"{LEGACY_SILENCE:g} s"),
    ("docs/concepts.md", "## Records", f"`Timeouts.lookup` ({Timeouts().lookup:g} s)"),
    *[("docs/concepts.md", "### Failed agents", f"`{begin.rstrip()} ...{end}`") for begin, end in FAILURES[:6]],
    ("docs/concepts.md", "## Time-outs", f"at most {DISCOVERY_SECONDS:g} s"),
    ("docs/howto/authenticate.md", "## Refresh a token", f"`refresh_before` ({BearerAuth('x').refresh_before:g} s)"),
    ("docs/howto/choose-a-transport.md", "## Lifetime", f"{Timeouts().connect:g} s"),
    ("docs/howto/detached-runs.md", "## Start a run", f"at most {START_SECONDS:g} s"),
    ("docs/howto/detached-runs.md", "## Reconnect", f"else {FIRST_PAUSE:g} s"),
    ("docs/howto/detached-runs.md", "## Reconnect", f"up to {LONGEST_PAUSE:g} s"),
    ("docs/howto/detached-runs.md", "## Reconnect", f"`Timeouts.idle` ({Timeouts().idle:g} s"),
    ("docs/howto/detached-runs.md", "## What can be lost", f"{FIRST} s, then {SECOND}, {THIRD}"),
    ("docs/howto/detached-runs.md", "## What can be lost", f"{QUEUE:,} messages"),
    ("docs/howto/observe.md", "## OpenTelemetry", f"{MOST_CALLS:,} calls"),
    ("docs/howto/retry-and-limit.md", "## Retry budget", f"{WORDS[Retry().budget]} retries"),
    ("docs/howto/retry-and-limit.md", "## Order of policies", f"{WORDS[Redirect().hops]} hops"),
    ("docs/howto/serve.md", "## Relay for browsers", f"last {RelayLimits().buffer_events:,} events"),
    ("docs/howto/serve.md", "## Relay for browsers", f"up to {RelayLimits().buffer_bytes // 1024**2} MiB"),
    ("docs/howto/serve.md", "## Relay for browsers", f"goes on for {RelayLimits().grace_seconds:g} s"),
    ("docs/howto/serve.md", "## Relay for browsers", f"nothing for {RelayLimits().send_seconds:g} s"),
    ("docs/howto/serve.md", "## Relay for browsers", f"viewed for {RelayLimits().finished_seconds / 60:g} minutes"),
    ("docs/howto/serve.md", "## Relay for browsers", f"the last {RelayLimits().finished_runs}"),
    ("docs/howto/serve.md", "## Relay for browsers", f"one run ({RelayLimits().viewers})"),
    ("docs/tutorial.md", "## Handle errors", f"{WORDS[Retry().attempts]} attempts"),
    ("docs/wire.md", "# The wire protocol", f"{KEEP_ALIVE_SECONDS:g} s"),
]


@pytest.mark.parametrize(("page", "heading", "figure"), FIGURES)
def test_a_figure(page: str, heading: str, figure: str) -> None:
    """The section has the figure of the code."""
    text = " ".join(section(page, heading).split())
    assert re.search(rf"(?<![\w.,]){re.escape(figure)}", text)


def test_the_table_of_message_types() -> None:
    """The table has each message type with its event class and its route."""
    table = {kind: cells[1] for cells in rows("docs/concepts.md", "## Router") for kind in names(cells[0])}
    shown = {kind for kind in ROUTES if kind is not None}
    assert table.keys() == shown
    for kind, classes in table.items():
        event = to_event(ServerSentEvent(data=f'{{"type": "{kind}", "content": {{}}}}'))
        assert type(event).__name__ in names(classes)


def test_the_order_of_the_policies() -> None:
    """The page has a line for each kind of policy, in order."""
    text = (DOCS / "howto" / "retry-and-limit.md").read_text("utf-8").partition("## Order of policies")[2]
    policies = import_module("oxygent_client.policies")
    listed = [getattr(policies, name).kind for name in re.findall(r"^\d\. `(\w+)`", text, re.MULTILINE)]
    assert listed == [*ORDER]


@pytest.mark.parametrize(
    ("page", "heading", "expected"),
    [
        ("docs/howto/observe.md", "## Statistics", {field.name for field in attrs.fields(Stats)}),
        ("docs/howto/test-without-a-server.md", "## The toy server", {*SCRIPTS}),
        (
            "docs/reference.md",
            "## Command line",
            {each.name or each.callback.__name__ for each in app.registered_commands if each.callback},
        ),
        (
            "README.md",
            "## Extras",
            {*tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]},
        ),
        ("docs/howto/cluster.md", "## Load balancing", {*get_args(Strategy)}),
        (
            "docs/contributing.md",
            "## Checks",
            {
                node.name
                for node in ast.parse((ROOT / "noxfile.py").read_text("utf-8")).body
                if isinstance(node, ast.FunctionDef) and "nox.session" in "".join(map(ast.unparse, node.decorator_list))
            },
        ),
    ],
    ids=["stats", "toy", "commands", "extras", "strategies", "sessions"],
)
def test_tables_are_complete(page: str, heading: str, expected: set[str]) -> None:
    """A table has each item of its set once, and no other."""
    listed = [name.split()[0].strip('[]"') for cells in rows(page, heading) for name in names(cells[0])]
    assert sorted(listed) == sorted(expected)


def test_the_layout() -> None:
    """The page lists each module with the first line of its docstring."""
    source = ROOT / "src" / "oxygent_client"
    modules = {str(path.relative_to(source).with_suffix("")): path for path in source.rglob("*.py")}
    expected = {
        name: (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").partition("\n")[0]
        for name, path in modules.items()
        if not name.endswith("/__init__")
    }
    assert {cells[0].strip("`"): cells[1] for cells in rows("docs/contributing.md", "## Layout")} == expected


def test_files_in_common_changes() -> None:
    """The modules and files on the page for contributors exist."""
    text = page_text("docs/contributing.md").partition("## Common changes")[2].partition("## Layout")[0]
    paths = {name for name in names(text) if re.fullmatch(r"\w+(/[\w.]+)+", name)}
    assert len(paths) > 10
    source = ROOT / "src" / "oxygent_client"
    assert [
        path for path in sorted(paths) if not (ROOT / path).is_file() and not (source / f"{path}.py").is_file()
    ] == []


# ------------------------------------------------------------------------------------------------------------ Reference

ELSEWHERE: Final = {
    # names that the reference leaves to another page, or to pytest
    "oxygent_client": {"__version__"},
    "oxygent_client.cli": {"main"},
    "oxygent_client.pytest_plugin": {
        *("oxygent_cassette", "oxygent_cassette_path", "oxygent_fake", "oxygent_scrub", "oxygent_toy"),
        *("oxygent_transport", "toy_remote"),
        *("pytest_addoption", "pytest_configure", "pytest_report_header", "pytest_runtest_makereport"),
        "pytest_runtest_setup",
    },
}
DIRECTIVE: Final = re.compile(r"^\.\. (\S+):: (\S+)\n((?:   :.*\n)*)", re.MULTILINE)


def referred() -> Iterator[tuple[str, str]]:
    """Return the names in the reference by module."""
    for kind, target, options in DIRECTIVE.findall((DOCS / "reference.md").read_text("utf-8")):
        said = dict(re.findall(r":([\w-]+): *(.*)", options))
        if kind == "automodule":
            module = import_module(target)
            left_out = {name.strip() for name in said.get("exclude-members", "").split(",")}
            for name in set(module.__all__) - left_out:
                value = getattr(module, name)
                is_own = getattr(value, "__module__", target) == target
                if is_own or "imported-members" in said:
                    yield target, name
        else:
            module_name, _, name = f"{said.get('module', '')}.{target}".strip(".").rpartition(".")
            yield module_name, name


def test_the_reference_is_complete() -> None:
    """Each public name is in the reference, under its module or the package."""
    known = {*referred()}
    same = {id(getattr(import_module(module), name)) for module, name in known}
    assert [
        f"{module}.{name}"
        for module in MODULES
        for name in getattr(import_module(module), "__all__", [])
        if (module, name) not in known
        and name not in ELSEWHERE.get(module, ())
        and id(getattr(import_module(module), name)) not in same
        and not inspect.ismodule(getattr(import_module(module), name))
    ] == []


def test_the_page_of_the_fixtures() -> None:
    """The fixtures that the reference leaves out are on the plugin's page."""
    page = page_text("docs/howto/pytest-plugin.md")
    fixtures = {name for name in ELSEWHERE["oxygent_client.pytest_plugin"] if not name.startswith("pytest_")}
    assert [name for name in sorted(fixtures) if name not in page] == []


def test_links() -> None:
    """Links to files of the project lead to files; Sphinx does not check pages outside of docs."""
    link = re.compile(r"\]\((?!https?://)([^)#\s]+)")
    assert [
        f"{page.relative_to(ROOT)}: {target}"
        for page in PAGES
        for target in link.findall(page.read_text("utf-8"))
        if not (page.parent / target).exists()
    ] == []
