"""Check a run before it starts for later failures: one file for each part of its configuration.

Run on the driver, before data is prepared and a cluster starts; they read headers and configurations, no weights.
May import: the same as their parent.
A new check owes a configuration that would fail without it, and a similar one that passes.
"""
