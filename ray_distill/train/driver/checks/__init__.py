"""Checks before a run of what would fail in a later phase: a file for each part of its configuration."""
