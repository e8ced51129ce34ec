"""Routing of events: the router, its actions, and the caller that it forwards messages to."""

from oxygent_client._core.requests import Host
from oxygent_client._protocol.router import Action, Drop, EventRouter, Forward, NameMap, Route, SetAnswer

__all__ = ["Action", "Drop", "EventRouter", "Forward", "Host", "NameMap", "Route", "SetAnswer"]
