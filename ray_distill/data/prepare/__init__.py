"""Prepare a run's cache: list -> look -> decode -> encode -> stores -> index.

`encode` and `teach` run in Ray Data's actors, and only they load models; `stages` runs in its tasks, the other files on
the driver. Only `pipeline` imports Ray.
May import: data.read, data.store, data.source, models.
A new file owes a reason, a count and a name for every clip that it leaves out.
"""
