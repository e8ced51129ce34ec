"""Findings of the doctor: their codes, what they mean, and what to do.

Rule: a code is for programs and does not change. E- is an error, W- a warning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import frozen

FINDINGS: Final[Mapping[str, tuple[str, str]]] = {
    # the code: (what it means, what to do)
    "E-DNS": ("The host name cannot be resolved.", "Check the host name, and the DNS settings of this machine."),
    "E-PROXY": (
        "No connection through the proxy of the environment.",
        "Check HTTP_PROXY, HTTPS_PROXY and ALL_PROXY, or add the host to NO_PROXY.",
    ),
    "E-CONNECT": ("No connection to this host and port.", "Check that the server is running, and check host and port."),
    "E-CONNECT-TIMEOUT": (
        "The host does not answer to a connection.",
        "Check host and port; a firewall may drop the packets.",
    ),
    "E-NEEDS-TLS": ("The URL is http://, and the port speaks TLS.", "Use https:// in the URL."),
    "E-NO-TLS": ("The URL is https://, and the port speaks plain http.", "Use the port that speaks TLS, or http://."),
    "E-TLS-EXPIRED": (
        "The server's certificate has expired.",
        "Renew the certificate, or correct the clock of this machine.",
    ),
    "E-TLS-NOT-YET": (
        "The server's certificate is not valid yet.",
        "Correct the clock of this machine, or wait until the certificate is valid.",
    ),
    "E-TLS-HOST": (
        "The server's certificate is for another host name.",
        "Use a host name that the certificate is valid for.",
    ),
    "E-TLS-ISSUER": (
        "The issuer of the server's certificate is not trusted.",
        "If you trust it, name its file in SSL_CERT_FILE.",
    ),
    "E-TLS": ("The TLS handshake failed.", "Check the versions of TLS and the certificates of the server."),
    "E-INSECURE": ("Credentials would be sent over plain http.", "Use https://, or send no credentials."),
    "E-LOST": ("The server closed the connection without a response.", "See the log of the server or of its proxy."),
    "E-PATH": (
        "There is no OxyGent server at this path.",
        "Use the server's root URL, without /sse/chat; behind a proxy, with the path that the proxy gives it.",
    ),
    "E-NOT-OXYGENT": (
        "The response is not that of an OxyGent server, but a page of a proxy, a login, or another service.",
        "Check that the URL is the root of an OxyGent server, and what stands between.",
    ),
    "E-REDIRECT": (
        "The server redirects to another one.",
        "Use the target of the redirect as the URL, if you trust it.",
    ),
    "E-CREDENTIALS": (
        "The server requires credentials, or does not accept those that were sent.",
        "Pass --token-env VARIABLE, --header @FILE or --profile NAME.",
    ),
    "E-PERMISSION": ("The credentials lack permission.", "Ask the operator of the server."),
    "E-RATE-LIMIT": ("The server's rate limit is exceeded.", "Try again later."),
    "E-SERVER": ("The server, or a proxy before it, responds with an error.", "See the log of the server."),
    "E-SLOW": ("The server did not respond in time.", "Increase --timeout; see the load of the server."),
    "E-NOT-ALIVE": ("The server reports that it is not alive.", "See the log of the server."),
    "E-NO-AGENTS": ("The server has no agents.", "Add an agent to the multi-agent system of the server."),
    "E-AGENT-NAME": (
        "The server has no agent of this name; it would never answer.",
        "Use one of the names above, or leave out --callee.",
    ),
    "E-BUFFERED": (
        "A proxy holds events back and delivers them in one piece.",
        "Turn buffering off in the proxy; for nginx: `proxy_buffering off`.",
    ),
    "E-RUN-DEAD": (
        "The run sends heartbeats and no event: it died at its start.",
        "See the log of the server for an exception.",
    ),
    "E-RUN-QUIET": ("The run stopped sending events.", "Increase --timeout, or see the log of the server."),
    "E-SILENCE": ("The server's heartbeats stopped during the run.", "See the log of the server, and of its proxy."),
    "E-CUT": ("The stream of the run was cut off.", "See the log of the server, and the time-outs of its proxy."),
    "E-NO-ANSWER": ("The run ended without an answer.", "See the log of the server."),
    "E-AGENT-FAILED": ("The agent failed.", "See the log of the server."),
    "E-OTHER": ("Unexpected error.", "Use --debug to see the traceback."),
    "W-OLD-SERVER": (
        "The server is older than OxyGent 1.0.13: its detached runs and its list of agents cannot be read.",
        "Update OxyGent on the server.",
    ),
    "W-NO-RECORDS": (
        "The server keeps no records of its runs: an answer that is lost with a connection cannot be read again.",
        "Give the server a store.",
    ),
    "W-BLOCKED": (
        "The agent blocks the server: nothing else is answered while it runs.",
        "Use async functions in the agent, or threads.",
    ),
}


@frozen
class Finding:
    """One finding."""

    code: str
    meaning: str
    remedy: str
    detail: str = ""
    """The text of the error behind it, or a name."""

    @property
    def is_warning(self) -> bool:
        """Whether the server can be used all the same."""
        return self.code.startswith("W-")

    def as_dict(self) -> dict[str, Any]:
        """Return the finding for --json."""
        return {
            "code": self.code,
            "level": "warning" if self.is_warning else "error",
            "meaning": self.meaning,
            "remedy": self.remedy,
            "detail": self.detail,
        }
