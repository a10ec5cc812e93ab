"""From video files to micro-batches in four phases, one folder each.

read     a file -> frames: in Ray Data's tasks
prepare  files -> stores -> a run's cache: on the driver and in Ray Data's tasks and actors
store    rows and caches on disk: every process reads them, so no Ray and no torch
feed     the cache -> each step's micro-batches: in Ray Train's controller, in fetch tasks and on workers
`source` is the `data` section of a configuration; `encoders` names the models that a preparation needs. Each folder's
guide says what its files may import and what a new file owes; no folder imports config.
"""
