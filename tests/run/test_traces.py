"""The registry of trace ids: an id is sent unchanged only while it is free at its server.

The oracle of the property is the rule itself: a set of ids that may not be sent.
"""

from __future__ import annotations

import gc
import re
import threading
import weakref
from typing import Final

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from oxygent_client._core.ids import ALPHABET, new_id
from oxygent_client._run.trace_ids import TRACE_IDS, TraceIdLease, TraceIdRegistry

A: Final = "http://a"
B: Final = "http://b"
RENAMED: Final = re.compile(rf"t-[{ALPHABET}]{{12}}")


def test_an_id_that_is_free() -> None:
    """A free id is sent unchanged, also after a clean end, and to another server meanwhile."""
    registry = TraceIdRegistry()
    first = registry.claim(A, "t")
    assert first.remote == "t"
    assert registry.claim(B, "t").remote == "t"
    registry.release(first, ran=True, closed=True)
    assert registry.claim(A, "t").remote == "t"
    assert registry.remote_name(A, "t") == "t"


@pytest.mark.parametrize(
    "same", ["http://LOCALHOST:8082/p/", "http://me:pw@127.0.0.1:8082/p", "http://[::1]:8082/p?key=1"]
)
def test_one_server(same: str) -> None:
    """Different spellings of a URL are the same server (see `tests/core/test_identity.py`)."""
    registry = TraceIdRegistry()
    registry.claim("http://localhost:8082/p", "t")
    assert RENAMED.fullmatch(registry.claim(same, "t").remote)


def test_another_path() -> None:
    """Another path is another server."""
    registry = TraceIdRegistry()
    registry.claim("http://localhost:8082/p", "t")
    assert registry.claim("http://localhost:8082/prefix", "t").remote == "t"


def test_an_id_in_flight() -> None:
    """While an id is in use the next run gets another; the remote's id for it is remembered."""
    registry = TraceIdRegistry()
    registry.claim(A, "t")
    second, third = (registry.claim(A, "t").remote for _ in range(2))
    assert RENAMED.fullmatch(second)
    assert RENAMED.fullmatch(third)
    assert len({"t", second, third}) == 3
    assert registry.remote_name(A, "t") == third
    assert registry.remote_name(B, "t") == "t"


def test_a_run_that_did_not_close() -> None:
    """After an unclean end the id is not sent again, even after a later clean end."""
    registry = TraceIdRegistry()
    registry.release(registry.claim(A, "t"), ran=True, closed=False)
    second = registry.claim(A, "t")
    assert RENAMED.fullmatch(second.remote)
    registry.release(second, ran=True, closed=True)
    assert RENAMED.fullmatch(registry.claim(A, "t").remote)
    assert registry.claim(B, "t").remote == "t"


def test_the_name_follows_the_last_run() -> None:
    """A run that is sent its caller's id again is no longer known by another id."""
    registry = TraceIdRegistry()
    first = registry.claim(A, "t")
    second = registry.claim(A, "t").remote
    registry.release(first, ran=True, closed=True)
    assert registry.remote_name(A, "t") == second
    assert registry.claim(A, "t").remote == "t"
    assert registry.remote_name(A, "t") == "t"


@pytest.mark.parametrize(
    ("expected", "ran", "closed", "node_id"),
    [
        (True, True, True, "other"),
        (False, True, True, "n"),  # by what the server has stored, the two would be one
        (False, True, False, "other"),
        (True, False, False, "n"),  # the server has stored nothing of it
        (True, False, False, "other"),
    ],
)
def test_a_request_made_again(expected: bool, ran: bool, closed: bool, node_id: str) -> None:
    """A request made again keeps its id unless the server may have data of a run with that id and node."""
    registry = TraceIdRegistry()
    registry.release(registry.claim(A, "t", "n"), ran=ran, closed=closed)
    assert (registry.claim(A, "t", node_id).remote == "t") == expected


def test_reset() -> None:
    """A registry that was reset is empty, and a later release changes nothing."""
    registry = TraceIdRegistry()
    running = registry.claim(A, "t", "n")
    registry.release(registry.claim(A, "t", "n"), ran=True, closed=False)
    registry.forget()
    assert registry.remote_name(A, "t") == "t"
    after = registry.claim(A, "t", "n")
    assert after.remote == "t"
    registry.release(running, ran=True, closed=False)
    registry.release(after, ran=False, closed=False)
    assert registry.claim(A, "t").remote == "t"


def test_a_run_of_another_program() -> None:
    """A run that another program started has one reader at a time, and its id is not sent meanwhile."""
    registry = TraceIdRegistry()
    held = registry.hold(A, "t")
    assert held is not None
    assert registry.hold(A, "t") is None
    assert RENAMED.fullmatch(registry.claim(A, "t").remote)
    registry.release(held, ran=True, closed=True)
    assert registry.hold(A, "t") is not None


def test_the_table_is_bounded() -> None:
    """Each table keeps its newest entries up to a limit; an id in flight is never dropped."""
    registry = TraceIdRegistry(size=3)
    for number in range(5):
        registry.release(registry.claim(A, f"t{number}"), ran=True, closed=False)
    in_flight = [registry.claim(A, "in flight")]
    in_flight += [registry.claim(A, f"t{number}") for number in range(5)]
    assert [claim.remote == claim.trace_id for claim in in_flight[1:]] == [True, True, False, False, False]
    assert registry.claim(A, "in flight").remote != "in flight"


def test_an_id_used_again_is_the_newest() -> None:
    """An id that ended uncleanly again is the newest entry again."""
    registry = TraceIdRegistry(size=2)
    for trace_id in ("a", "b", "a", "c"):
        held = registry.hold(A, trace_id)
        assert held is not None
        registry.release(held, ran=True, closed=False)
    forgotten, newest = registry.claim(A, "b"), registry.claim(A, "a")
    assert forgotten.remote == "b"
    assert newest.remote != "a"


def test_a_claim_that_was_dropped() -> None:
    """A claim that was garbage-collected is released: its id may be read again but is replaced when sent."""
    registry = TraceIdRegistry()
    claim = registry.claim(A, "t", "n")
    dropped = weakref.ref(claim)
    del claim
    gc.collect()
    assert dropped() is None
    held = registry.hold(A, "t")
    assert held is not None
    registry.release(held, ran=False, closed=False)
    assert RENAMED.fullmatch(registry.claim(A, "t").remote)
    assert RENAMED.fullmatch(registry.claim(A, "t", "n").remote)


def test_dropped_claims_are_bounded() -> None:
    """The newest of the garbage-collected claims are kept among those that ended uncleanly."""
    registry = TraceIdRegistry(size=3)
    for number in range(50):
        registry.claim(A, f"t{number}")
    gc.collect()
    held = [registry.claim(A, f"t{number}") for number in (0, 46, 47, 48, 49)]
    assert [claim.remote == claim.trace_id for claim in held] == [True, True, False, False, False]


def test_a_claim_that_is_released_late() -> None:
    """Releasing a claim that is no longer in the registry (of a forked process's parent) ends no other claim."""
    registry = TraceIdRegistry()
    before = registry.claim(A, "t", "n")
    registry.after_fork()
    held = registry.hold(A, "t")
    assert held is not None
    registry.release(before, ran=True, closed=True)
    assert registry.hold(A, "t") is None
    del before
    gc.collect()
    assert registry.hold(A, "t") is None
    assert RENAMED.fullmatch(registry.claim(A, "t").remote)


def test_a_fork_while_a_thread_claims() -> None:
    """A forked child does not inherit a lock that a thread of its parent held."""
    registry = TraceIdRegistry()
    registry._lock.acquire()
    registry.after_fork()
    assert registry.claim(A, "t").remote == "t"


def test_threads() -> None:
    """Threads that claim an id at the same time never get the same one."""
    registry = TraceIdRegistry()
    start = threading.Barrier(8)
    claimed: list[str] = []

    def claim() -> None:
        start.wait()
        claimed.extend([registry.claim(A, "t").remote for _ in range(100)])

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({*claimed}) == 800
    assert claimed.count("t") == 1


def test_the_registry_of_the_process() -> None:
    """The process has one registry, of the documented size."""
    assert TRACE_IDS.size == 10_000


@pytest.mark.parametrize("length", [0, 1, 12, 16, 22])
def test_new_ids(length: int) -> None:
    """A new id has the requested length and no ambiguous characters."""
    drawn = [new_id(length) for _ in range(100)]
    assert {len(each) for each in drawn} == {length}
    assert {*"".join(drawn)} <= {*ALPHABET}
    assert not {*"01IOl"} & {*ALPHABET}
    assert len({*drawn}) == 100 or length < 12


def test_the_usual_length() -> None:
    """New ids are as long as those of servers."""
    assert len(new_id()) == 16


class RegistryMachine(RuleBasedStateMachine):
    """Runs that begin and end in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = TraceIdRegistry()
        self.running: list[TraceIdLease] = []
        self.places: dict[TraceIdLease, tuple[str, str]] = {}
        self.left: set[tuple[str, str]] = set()
        self.names: dict[tuple[str, str], str] = {}

    @rule(url=st.sampled_from([A, B]), trace_id=st.sampled_from(["t", "u"]))
    def begin(self, url: str, trace_id: str) -> None:
        """Start a run: it gets the caller's id exactly if that is free."""
        claim = self.registry.claim(url, trace_id)
        key, remote = (url, trace_id), (url, claim.remote)
        running = {self.places[other] for other in self.running}
        assert (key not in running and key not in self.left) == (claim.remote == trace_id)
        assert remote not in running
        assert remote not in self.left
        self.running.append(claim)
        self.places[claim] = remote
        self.names[key] = claim.remote

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 99), ran=st.booleans(), closed=st.booleans())
    def end(self, which: int, ran: bool, closed: bool) -> None:
        """End some run, cleanly or not, or as never sent."""
        claim = self.running.pop(which % len(self.running))
        self.registry.release(claim, ran=ran, closed=closed)
        if ran and not closed:
            self.left.add(self.places[claim])

    @invariant()
    def names_are_known(self) -> None:
        """The remote's id of the last run of each id is known."""
        for (url, trace_id), remote in self.names.items():
            assert self.registry.remote_name(url, trace_id) == remote


TestLedger = RegistryMachine.TestCase
TestLedger.__doc__ = (
    """Whatever begins and ends, no id is in flight twice, and none is sent to what a broken run left."""
)
