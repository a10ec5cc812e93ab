"""Worker of a training: one process per rank, each with its shard of every role.

Runs under Ray Train on GPUs, or on a CPU under gloo. Only `zero` and `shards` touch DeepSpeed; `step` knows no
algorithm.
May import: train.wire, train.schedule, models, methods' protocol in `types`; nothing of the driver.
A new file owes a gang test: worlds of 1, 2 and 4 agree, and a planted fault does not.
"""
