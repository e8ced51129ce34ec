"""Apply policies to a transport in one fixed order.

Rule 1: the order is ORDER, whatever the order of the arguments; `tests/policies/test_policies.py` gives the reason for
    each pair of neighbours.
Rule 2: a chain has one policy of each kind. A kind that the transport applies already is left out, except CHECKS, which
    are harmless twice and protect nothing if left out.
Rule 3: the state of a policy belongs to the agent, not to one chain, and is kept as long as the policy is equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from oxygent_client._core.errors import ConfigurationError
from oxygent_client._core.transport import Transport
from oxygent_client.policies._base import Policy, PolicyKind, Wrapper

ORDER: Final[tuple[PolicyKind, ...]] = ("concurrency", "rate", "retry", "auth", "redirect", "https-only")
"""Outermost first; the transport comes after the last."""
CHECKS: Final[tuple[PolicyKind, ...]] = ("https-only",)


class Policies:
    """The states of one agent's policies, shared by all chains that it builds. A copy starts with new states."""

    def __init__(self) -> None:
        self._states: dict[PolicyKind, tuple[Policy, Any]] = {}

    def wrap(self, transport: Transport, *policies: Policy) -> Transport:
        """Wrap `transport` in these policies, in the fixed order.

        Raises:
            ConfigurationError: two policies are of one kind, or a value is not a policy.
        """
        given = {policy.kind: policy for policy in map(_checked, policies)}
        if len(given) < len(policies):
            kinds = [policy.kind for policy in policies]
            twice = next(kind for kind in kinds if kinds.count(kind) > 1)
            raise ConfigurationError(f"two policies are of the kind {twice!r}: {_names(policies)}")
        present = {wrapper.kind for wrapper in _wrappers(transport)} - {*CHECKS}
        for kind in reversed(ORDER):
            if kind in given and kind not in present:
                transport = given[kind].wrap(transport, self._state(given[kind]))
        return transport

    def _state(self, policy: Policy) -> Any:
        kept = self._states.get(policy.kind)
        if kept is None or kept[0] != policy:
            kept = self._states[policy.kind] = policy, policy.new_state()
        return kept[1]

    def __reduce__(self) -> tuple[Any, ...]:
        return Policies, ()


def _checked(policy: Any) -> Policy:
    if isinstance(policy, type) or not isinstance(policy, Policy) or policy.kind not in ORDER:
        raise ConfigurationError(f"{_names((policy,))} is not a policy: pass a value such as Retry(attempts=5)")
    return policy


def _names(policies: tuple[object, ...]) -> str:
    return ", ".join(getattr(policy, "__name__", type(policy).__name__) for policy in policies)


def _wrappers(transport: object) -> Iterator[Wrapper]:
    """The wrappers around `transport`, outermost first."""
    while isinstance(transport, Transport):
        if isinstance(transport, Wrapper):
            yield transport
        transport = getattr(transport, "inner", None)
