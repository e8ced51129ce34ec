"""A real Chromium without a network, driven over a pipe by the DevTools protocol.

Source: https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from attrs import define, field

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

OPTIONS: Final = """
    --headless --no-sandbox --disable-gpu --disable-quic --disable-background-networking --disable-component-update
    --disable-sync --no-first-run --remote-debugging-pipe
""".split()
NAMES: Final = "--host-resolver-rules=MAP *.test 127.0.0.1"
"""Names of this machine, which a browser takes for another."""
KEYS: Final = {"Enter": "\r"}
"""Keys with a name that write a character."""
PROBLEMS: Final = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")


@define
class Tab:
    """The tab of the browser that was opened last: a page, and all that the browser told of it."""

    _commands: BinaryIO
    _replies: BinaryIO
    _session: str = ""
    _sent: int = 0
    _read: bytes = b""
    events: list[dict[str, Any]] = field(factory=list[dict[str, Any]])

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol, and return its result."""
        self._sent += 1
        asked = {"id": self._sent, "method": method, "params": params}
        self._commands.write(
            json.dumps(asked | ({"sessionId": self._session} if self._session else {})).encode() + b"\0"
        )
        while (reply := self._next()).get("id") != self._sent:
            self.events.append(reply)
        assert "error" not in reply, reply
        result: dict[str, Any] = reply["result"]
        return result

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            data = self._replies.read(65536)
            assert data, "the browser has ended"
            self._read += data
        message, _, self._read = self._read.partition(b"\0")
        read: dict[str, Any] = json.loads(message)
        return read

    def open(self, url: str, *, is_offline: bool = True) -> None:
        """Open a page in another tab, without a network unless it is served, and wait until it is loaded."""
        self._session = ""
        self.events.clear()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        if is_offline:
            limits = {"latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
            self.call("Network.emulateNetworkConditions", offline=True, **limits)
        self.call("Page.navigate", url=url)
        while "Page.loadEventFired" not in [each.get("method") for each in self.events]:
            self.events.append(self._next())

    def run(self, script: str) -> Any:
        """Return the value of a script."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Wait until a condition holds in the page."""
        look = f"() => ({condition}) ? done() : requestAnimationFrame(look)"
        script = f"new Promise((done) => {{ const look = {look}; look(); }})"
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True)
        assert "exceptionDetails" not in result, result

    def press(self, key: str) -> None:
        """Press a key."""
        text = {"text": KEYS.get(key, key)} if len(key) == 1 or key in KEYS else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def prefer(self, scheme: str) -> None:
        """Set what the user prefers: `light` or `dark`."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    @property
    def problems(self) -> list[dict[str, Any]]:
        """What the console shows."""
        return [each for each in self.events if each.get("method") in PROBLEMS]

    @property
    def requests(self) -> list[str]:
        """The URLs that the page asked for."""
        sent = [each for each in self.events if each.get("method") == "Network.requestWillBeSent"]
        return [each["params"]["request"]["url"] for each in sent]


@contextmanager
def chromium(profile: Path) -> Generator[Tab]:
    """Run the browser with an empty profile."""
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    # The browser reads descriptor 3 and writes descriptor 4.
    command = ["bash", "-c", f'exec 3<&{theirs_in} 4>&{theirs_out}; exec chromium "$@"', "chromium"]
    with (
        os.fdopen(ours_out, "wb", buffering=0) as to,
        os.fdopen(ours_in, "rb", buffering=0) as from_,
        subprocess.Popen(
            [*command, *OPTIONS, NAMES, f"--user-data-dir={profile}"],
            pass_fds=(theirs_in, theirs_out),
            stderr=subprocess.DEVNULL,
        ) as process,
    ):
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            yield Tab(to, from_)
        finally:
            process.kill()
