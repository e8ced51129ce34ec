"""Tests that need web frameworks or a notebook; they have a session of their own."""
