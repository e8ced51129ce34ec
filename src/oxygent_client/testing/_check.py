"""`check_transport`: test that a transport fulfils the `Transport` contract.

Rule 1: the checks are in `_transport_checks`; this module runs them and reports.
Rule 2: each check has a time limit: a transport that hangs fails the check.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, Literal, TypeAlias

import attrs

from oxygent_client._core.errors import ConfigurationError
from oxygent_client._core.tasks import plain_task_group
from oxygent_client.testing._transport_checks import (
    CHECKS,
    SECONDS,
    TRANSPORT_PROMISES,
    Bench,
    BrokenPromise,
    Make,
    SkippedCheck,
    shown,
)

Result: TypeAlias = Literal["kept", "broken", "skipped"]
RESULTS: Final[tuple[Result, ...]] = ("kept", "broken", "skipped")


@attrs.frozen
class TransportReport:
    """The findings of `check_transport`; its `str` is a table for people."""

    results: Mapping[str, Result]
    """The result of each check, by name."""
    notes: Mapping[str, str]
    """The finding of each broken check, and the reason of each skipped one."""
    checkpoints: int
    """At how many checkpoints an exchange was cancelled."""

    def names(self, result: Result) -> tuple[str, ...]:
        """Return the names of the checks with this result."""
        return tuple(name for name, found in self.results.items() if found == result)

    def __str__(self) -> str:
        counted = ", ".join(f"{len(self.names(result))} {result}" for result in RESULTS)
        lines = [f"{len(self.results)} promises: {counted}; cancelled at {self.checkpoints} checkpoints"]
        for name, result in self.results.items():
            lines.append(f"  {result:<8}{name:<15}{TRANSPORT_PROMISES[name]}")
            if name in self.notes:
                lines.append(f"{'':25}{'found' if result == 'broken' else 'reason'}: {self.notes[name]}")
        return "\n".join(lines)


class TransportCheckError(AssertionError):
    """The transport breaks the contract; the text names the broken checks. Unexpected errors are the `__cause__`."""

    report: TransportReport

    def __init__(self, report: TransportReport) -> None:
        super().__init__(report)
        self.report = report

    @property
    def failed(self) -> tuple[str, ...]:
        """The names of the broken checks."""
        return self.report.names("broken")


@attrs.define
class _Finding:
    """The outcome of one check."""

    result: Result = "broken"
    note: str = "an unrequested cancellation was raised"
    error: Exception | None = None


async def _run_check(bench: Bench, name: str, finding: _Finding) -> None:
    try:
        with bench.begin(name) as scope:
            await CHECKS[name](bench)
        hung = scope.cancel_called
        finding.result, finding.note = ("broken", f"it had not ended after {SECONDS:g} s") if hung else ("kept", "")
    except SkippedCheck as why:
        finding.result, finding.note = "skipped", str(why)
    except BrokenPromise as seen:
        finding.note = str(seen)
    except Exception as error:  # noqa: BLE001  (it is the finding, and becomes the cause)
        finding.note, finding.error = f"raised {shown(error)}", error


async def check_transport(make: Make, *, skip: Collection[str] = ()) -> TransportReport:
    """Test whether a transport fulfils the `Transport` contract, and return a report.

    `await check_transport(lambda peer: MyTransport())` is a complete test, on asyncio and on trio. The requests go to a
    server on loopback that is part of the check.

    Args:
        make: called for each new transport, which the check closes. A transport in process uses `peer.app`, an ASGI
            application, or `peer.replies`, for a `FakeTransport`.
        skip: names of checks (keys of `TRANSPORT_PROMISES`) that the transport breaks on purpose, such as `redirect`
            for a transport that follows redirects.

    Raises:
        TransportCheckError: a check failed; the text names it and the finding.
        ConfigurationError: `skip` names an unknown check.
    """
    if unknown := sorted(set(skip) - CHECKS.keys()):
        raise ConfigurationError(
            f"check_transport: skip names unknown checks {unknown}; the checks are {', '.join(CHECKS)}"
        )
    findings = {name: _Finding("skipped", "by `skip`") if name in skip else _Finding() for name in CHECKS}
    async with plain_task_group() as servers:
        bench = Bench(make, servers)
        for name, finding in findings.items():
            if name not in skip:
                # In a task of its own, since a transport that leaves a scope open breaks the task.
                try:
                    async with plain_task_group() as tasks:
                        tasks.start_soon(_run_check, bench, name, finding)
                except Exception as error:  # noqa: BLE001  (it is the finding)
                    finding.result, finding.note = "broken", finding.note or shown(error)
    results: dict[str, Result] = {name: finding.result for name, finding in findings.items()}
    notes = {name: finding.note for name, finding in findings.items() if finding.note}
    report = TransportReport(results, notes, bench.checkpoints)
    if report.names("broken"):
        errors = [finding.error for finding in findings.values() if finding.error is not None]
        raise TransportCheckError(report) from (ExceptionGroup("unexpected errors", errors) if errors else None)
    return report
