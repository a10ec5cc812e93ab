"""What would fail in a later phase of a run, a file for each part of its configuration; train/driver/check.py calls them."""
