"""Tests with the clients and frameworks of others, each in an environment of its own."""
