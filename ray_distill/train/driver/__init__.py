"""Driver of a training: start the run, watch it, and record its results.

Runs in the user's process (or a Ray job's), without a GPU. Owns the terminal, the signals, MLflow and the run's folder.
May import: train.wire, train.schedule and, from the worker, `entry` alone.
A new file owes a deadline for every wait.
"""
