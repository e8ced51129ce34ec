"""The agent: options, requests, callbacks, and the thin class that joins them."""
