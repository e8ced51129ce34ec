"""Tests against real OxyGent servers, each release in an environment of its own."""
