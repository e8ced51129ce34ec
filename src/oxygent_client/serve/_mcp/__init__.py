"""The Model Context Protocol: tools, their arguments and their results."""
