"""Track a run in MLflow and by a web hook, from the driver alone; an outage never stops a run.

May import: config. MLflow is imported nowhere else. Unsent calls wait in the outbox.
A new call owes a test that it may be made twice.
"""
