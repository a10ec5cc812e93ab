"""Train a run: two processes that never import one another, and the messages between them.

driver  the process that the user starts: it checks, watches, validates and publishes the run
wire    messages between them: the job, the board, heartbeats; light to import, no torch
worker  one process per rank: engines, steps, saves
`launch` runs the phases in order; `schedule` has the learning rates, which both sides read. The guide of each folder
lists its imports and what a new file owes.
"""
