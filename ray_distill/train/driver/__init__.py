"""The driver's side of a training: it starts the run, watches it, and records what comes of it.

Runs in the user's process (or a Ray job's), beside no GPU. Owns the terminal, the signals, MLflow and the run's folder.
May import: train.wire, train.schedule and, of the worker, `entry` alone.
A new file owes a deadline for every wait.
"""
