"""The Agent2Agent protocol: agent card, calls of JSON-RPC, tasks, and their events."""
