"""Checks before a run of what would fail in a later phase: a file for each part of its configuration.

Run on the driver, before data is prepared and a cluster starts; they read headers and configurations, no weights.
May import: what their parent may.
A new check owes the run that it spares: a configuration that fails without it, and one near it that passes.
"""
