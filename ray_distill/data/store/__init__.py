"""Rows and caches on disk: parquet files whose rows stand under the hash of what they depend on.

Read by the driver, by fetch tasks and by workers: no Ray, no torch, no network.
May import: other files of this folder; of models, `spec` and `packed`, which are light.
A new file owes verification: bytes that changed on disk are found before they are used.
"""
