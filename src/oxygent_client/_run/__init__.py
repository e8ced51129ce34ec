"""One run of a remote agent: its state, its connection, its recovery."""
