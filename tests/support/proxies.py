"""Real proxies on loopback, before servers of ours: nginx and HAProxy, each with a configuration in a directory.

Rule 1: a proxy listens before its block begins, and is ended with it, by its process id.
Rule 2: the configurations are read from docs/howto/behind-a-proxy.md.
"""

from __future__ import annotations

import re
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from tests.conftest import ROOT
from tests.support.servers import closed_port

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

__all__ = ["PROXIES", "proxy"]

PAGE: Final = ROOT / "docs" / "howto" / "behind-a-proxy.md"
SETTINGS: Final = dict(re.findall(r"```(nginx|haproxy)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))
"""The settings of the page, by proxy."""
LISTENS_SECONDS: Final = 10.0

NGINX: Final = """\
worker_processes 1;
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {directory}; proxy_temp_path {directory}; fastcgi_temp_path {directory};
    uwsgi_temp_path {directory}; scgi_temp_path {directory};
    upstream agents {{ {servers} }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://agents;
{settings}
        }}
    }}
}}
"""
BUFFERING: Final = "proxy_ignore_headers X-Accel-Buffering;\nproxy_buffering on;\n"
"""A wrong configuration of nginx: real servers send a header against buffering, which must be ignored first."""

HAPROXY: Final = """\
global
    maxconn 256
defaults
    mode http
    timeout connect 5s
{settings}
frontend front
    bind 127.0.0.1:{port}
    default_backend agents
backend agents
    balance roundrobin
{servers}
"""


def _nginx(directory: Path, port: int, servers: Sequence[str], settings: str) -> tuple[str, list[str]]:
    listed = " ".join(f"server {server};" for server in servers)
    config = NGINX.format(directory=directory, port=port, servers=listed, settings=settings)
    return config, ["nginx", "-e", str(directory / "error.log"), "-c", str(directory / "proxy.conf")]


def _haproxy(directory: Path, port: int, servers: Sequence[str], settings: str) -> tuple[str, list[str]]:
    listed = "\n".join(f"    server s{number} {server}" for number, server in enumerate(servers))
    indented = "\n".join(f"    {line}" for line in settings.splitlines())
    config = HAPROXY.format(port=port, servers=listed, settings=indented)
    return config, ["haproxy", "-db", "-f", str(directory / "proxy.conf")]


PROXIES: Final = {
    # name: (the program, its preparation, its settings)
    "nginx": ("nginx", _nginx, SETTINGS["nginx"]),
    "haproxy": ("haproxy", _haproxy, SETTINGS["haproxy"]),
    "nginx that buffers": ("nginx", _nginx, BUFFERING),
}


@contextmanager
def proxy(name: str, directory: Path, urls: Sequence[str]) -> Generator[str]:
    """Yield the URL of a proxy before the servers at `urls`."""
    _, set_up, settings = PROXIES[name]
    port = closed_port()
    config, command = set_up(directory, port, [url.removeprefix("http://") for url in urls], settings)
    (directory / "proxy.conf").write_text(config, encoding="utf-8")
    with (directory / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            _wait_until_it_listens(process, port, directory)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(10)


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int, directory: Path) -> None:
    until = time.monotonic() + LISTENS_SECONDS
    while True:
        assert process.poll() is None, (directory / "log").read_text()
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert time.monotonic() < until, (directory / "log").read_text()
            time.sleep(0.02)
        else:
            return
