"""Tests of `oxygent_client.sync`."""
