"""Parse the documents of a server: organization, names of agents, welcome message, uploaded file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import attrs

from oxygent_client._core.errors import MalformedResponseError, TooLargeError
from oxygent_client._core.settings import Limits


def parse_stored_name(data: dict[str, Any]) -> str:
    """Parse the server's name of an uploaded file from the data of an `/upload` envelope.

    Raises:
        MalformedResponseError: the name is missing.
    """
    name = data.get("file_name")
    if not isinstance(name, str) or not name:
        raise MalformedResponseError("the response must have the `file_name` of the uploaded file")
    return name


@attrs.frozen
class Welcome:
    """A server's greeting for a new conversation, for a chat window."""

    message: str = ""
    """The welcome message; empty without one."""
    first_queries: tuple[str, ...] = ()
    """Queries that the server suggests; empty without any."""


def parse_welcome_message(data: dict[str, Any]) -> str:
    """Parse the data of a `/get_welcome_message` envelope; empty without a message."""
    message = data.get("welcome_message")
    return message if isinstance(message, str) else ""


def parse_first_queries(data: dict[str, Any]) -> tuple[str, ...]:
    """Parse the data of a `/get_first_query` envelope: one query, or a list."""
    given = data.get("first_query")
    queries = cast("list[Any]", given) if isinstance(given, list) else [given]
    return tuple(query for query in queries if isinstance(query, str) and query)


def parse_organization(data: dict[str, Any], limits: Limits = Limits()) -> dict[str, Any]:
    """Parse the tree in the data of a `/get_organization` envelope; all `children` are lists of objects.

    Raises:
        MalformedResponseError: it is not a tree of objects.
        TooLargeError: it has more nodes than `limits.nodes`.
    """
    tree = data.get("organization")
    if not isinstance(tree, dict):
        raise MalformedResponseError("the organization must be an object")
    root = cast("dict[str, Any]", tree)
    for count, node in enumerate(members(root), start=1):
        if count > limits.nodes:
            raise TooLargeError(f"the organization has more nodes than Limits.nodes ({limits.nodes})")
        children = node.get("children", [])
        if not isinstance(children, list) or not all(isinstance(child, dict) for child in cast("list[Any]", children)):
            raise MalformedResponseError("the `children` of an organization must be a list of objects")
    return root


def members(root: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Iterate over a tree of objects, the root first, without recursion. Children are read after their node."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(reversed(cast("list[dict[str, Any]]", node.get("children", []))))


@attrs.frozen
class KnownAgents:
    """The names of a remote's agents, from its discovery."""

    names: frozenset[str]
    """All names that were found."""
    complete: bool
    """True if `/get_agents` listed them: the remote has no other agents."""

    @classmethod
    def read(cls, root: dict[str, Any], listing: dict[str, Any] | None) -> KnownAgents:
        """Collect the names from an organization and the data of `/get_agents`, if the server has it."""
        listed = listing.get("agents") if listing is not None else None
        rows: list[Any] = [*members(root)]
        if isinstance(listed, list):
            rows += cast("list[Any]", listed)
        names = (cast("dict[str, Any]", row).get("name") for row in rows if isinstance(row, dict))
        return cls(frozenset(name for name in names if isinstance(name, str) and name), isinstance(listed, list))
