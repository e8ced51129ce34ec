"""The programs of docs/howto/web-frameworks.md, with the test clients of their frameworks."""

from __future__ import annotations

import re
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from oxygent_client.testing import serve
from tests.conftest import ROOT
from tests.sync.conftest import ServedToy

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def toy() -> Iterator[ServedToy]:
    """A toy server that writes an answer in two seconds."""
    remote = ServedToy(pace=0.5)
    with serve(remote) as remote.url:
        remote.measure()
        yield remote


@pytest.fixture
def program(request: pytest.FixtureRequest, toy: ServedToy) -> ModuleType:
    """The program below a heading of the page, as a module; its agent is that of the toy server."""
    page = (ROOT / "docs" / "howto" / "web-frameworks.md").read_text("utf-8")
    match = re.search(rf"^## {request.param}\n.*?^```py\n(.*?)^```\n", page, re.MULTILINE | re.DOTALL)
    assert match is not None
    module = ModuleType(request.param.lower())
    exec(match[1].replace("http://127.0.0.1:8082", toy.url), vars(module))
    return module


@pytest.mark.parametrize("program", ["Flask"], indirect=True)
def test_flask(program: ModuleType, toy: ServedToy) -> None:
    """A view answers, with the credentials of its user; a stream whose reader leaves cancels the remote."""
    client = program.app.test_client()
    answered = client.post("/ask", json={"query": "echo 42"}, headers={"authorization": "Bearer ada"})
    assert answered.json == {"answer": "42"}
    assert toy.runs[-1].headers["authorization"] == "Bearer ada"
    assert client.get("/stream?query=echo 42").text == "42"
    response = client.get("/stream?query=trip", buffered=False)
    assert next(response.iter_encoded())
    response.close()
    assert toy.state_after_leaving() == "cancelled"


@pytest.fixture
def django() -> Any:
    """A configured Django, and its test client."""
    conf: Any = import_module("django.conf")
    if not conf.settings.configured:
        conf.settings.configure(ALLOWED_HOSTS=["testserver"], ROOT_URLCONF=())
        import_module("django").setup()
    return import_module("django.test").Client()


@pytest.mark.parametrize("program", ["Django"], indirect=True)
def test_django(program: ModuleType, django: Any, toy: ServedToy) -> None:
    """A view answers; a stream whose reader leaves cancels the remote."""
    with import_module("django.test").override_settings(ROOT_URLCONF=tuple(program.urlpatterns)):
        assert django.post("/ask", {"query": "echo 42"}).json() == {"answer": "42"}
        assert b"".join(django.get("/stream?query=echo 42").streaming_content) == b"42"
        response = django.get("/stream?query=trip")
        assert next(iter(response.streaming_content))
        response.close()
        assert toy.state_after_leaving() == "cancelled"


@pytest.mark.parametrize("program", ["Celery"], indirect=True)
def test_celery(program: ModuleType, toy: ServedToy, tmp_path: Any) -> None:
    """A worker that forks runs the tasks, though its parent has used the agent; errors are those of the agent."""
    assert program.agent.ask("echo 1").output == "1"
    program.app.conf.update(result_backend=tmp_path.as_uri(), worker_proc_alive_timeout=60)
    testing: Any = import_module("celery.contrib.testing.worker")
    with testing.start_worker(program.app, pool="prefork", concurrency=1, perform_ping_check=False):
        assert program.ask.delay("echo 42").get(timeout=30) == "42"
        token = program.agent.start("echo 43").to_token()
        assert program.wait_for.delay(token).get(timeout=30) == "43"
        with pytest.raises(Exception, match="gave up"):
            program.ask.delay("fail").get(timeout=30)
