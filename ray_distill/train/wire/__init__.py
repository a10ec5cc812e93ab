"""Messages between driver and workers. Ray's controller and actors unpickle them: light to import, no torch.

May import: checkpoint, data.feed.stream; nothing of driver or worker.
`resume_point` also serves checks, and imports no Ray. A new file owes a test that it stays light.
"""
