"""Rows and caches on disk: parquet files whose rows have as id the hash of everything that they depend on.

The driver, fetch tasks and workers read them, so this folder imports no Ray and no torch, and uses no network.
May import: other files of this folder; of models, `spec` and `packed`, which are light.
A new file owes verification: it detects bytes that changed on disk before they are used.
"""
