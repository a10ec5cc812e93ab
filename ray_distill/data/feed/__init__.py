"""Feed training: the data plan's order -> blocks -> micro-batches.

`order` is pure; `stream` runs in Ray Train's controller and in fetch tasks (no torch); `fetch` (no torch)
and `batches` on workers.
May import: data.store, models; nothing of data.read or data.prepare.
A new file owes exactness: a sample depends on seed and step alone, not on the number of workers.
"""
