"""The protocol of OxyGent servers: payload, server-sent events, messages, router. Pure."""
