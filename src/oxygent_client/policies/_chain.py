"""Apply policies to a transport in one fixed order.

Rule 1: the order is ORDER, whatever the order in which they were given; `tests/policies/test_policies.py` says for each
    pair of neighbours why they stand so.
Rule 2: nothing is done twice. Of a kind there is one, and a kind that the transport has already is left out; but for
    CHECKS, which do no harm twice and protect nobody if left out.
Rule 3: what a policy remembers is kept for the agent, not for a chain: it lasts as long as the policy is the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from oxygent_client._core.errors import ConfigurationError
from oxygent_client._core.transport import Transport
from oxygent_client.policies._base import Policy, PolicyKind, Wrapper

__all__ = ["ORDER", "Policies"]

ORDER: Final[tuple[PolicyKind, ...]] = ("concurrency", "rate", "retry", "auth", "redirect", "https-only")
"""From the outside in; the transport comes after the last."""
CHECKS: Final[tuple[PolicyKind, ...]] = ("https-only",)


class Policies:
    """What the policies of one agent remember, shared by all chains that it builds. Pickled or copied, it is empty."""

    def __init__(self) -> None:
        self._memories: dict[PolicyKind, tuple[Policy, Any]] = {}

    def over(self, transport: Transport, *policies: Policy) -> Transport:
        """`transport` with these policies around it, in the one order.

        Raises:
            ConfigurationError: two are of one kind, or one is no policy.
        """
        given = {policy.kind: policy for policy in map(_checked, policies)}
        if len(given) < len(policies):
            kinds = [policy.kind for policy in policies]
            twice = next(kind for kind in kinds if kinds.count(kind) > 1)
            raise ConfigurationError(f"two policies are of the kind {twice!r}: {_names(policies)}")
        there = {wrapper.kind for wrapper in _wrappers(transport)} - {*CHECKS}
        for kind in reversed(ORDER):
            if kind in given and kind not in there:
                transport = given[kind].over(transport, self._memory(given[kind]))
        return transport

    def _memory(self, policy: Policy) -> Any:
        kept = self._memories.get(policy.kind)
        if kept is None or kept[0] != policy:
            kept = self._memories[policy.kind] = policy, policy.remember()
        return kept[1]

    def __reduce__(self) -> tuple[Any, ...]:
        return Policies, ()


def _checked(policy: Any) -> Policy:
    if isinstance(policy, type) or not isinstance(policy, Policy) or policy.kind not in ORDER:
        raise ConfigurationError(f"{_names((policy,))} is no policy: give a value such as Retry(attempts=5)")
    return policy


def _names(policies: tuple[object, ...]) -> str:
    return ", ".join(getattr(policy, "__name__", type(policy).__name__) for policy in policies)


def _wrappers(transport: object) -> Iterator[Wrapper]:
    """The policies' wrappers that `transport` consists of already."""
    while isinstance(transport, Transport):
        if isinstance(transport, Wrapper):
            yield transport
        transport = getattr(transport, "inner", None)
