"""Tests of what stands around the package."""
