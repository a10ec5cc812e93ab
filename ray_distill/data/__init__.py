"""From video files to micro-batches, in four phases, each a folder of its own.

read     a file -> frames: in Ray Data's tasks
prepare  files -> stores -> a run's cache: on the driver and in Ray Data's tasks and actors
store    rows and caches on disk: read everywhere, so free of Ray and torch
feed     the cache -> each step's micro-batches: in Ray Train's controller, in fetch tasks and on workers
`source` is the section of a configuration; `encoders` names the models that a preparation needs. The guide of each
folder says what it may import and what a new file owes; none of them imports config.
"""
