"""Rows and caches on disk: parquet files whose rows stand under the hash of what they depend on.

Read by the driver, by fetch tasks and by workers: no Ray, no torch, no network.
May import: other files of this folder.
A new file owes verification: bytes that changed on disk are found before they are used.
"""
