"""One function per endpoint of an OxyGent server."""
