"""The relay: messages of a run for browsers, their buffer, and the viewers."""
