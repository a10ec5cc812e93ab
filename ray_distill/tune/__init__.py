"""Search over a configuration's keys: Ray Tune runs trials, each an ordinary launch.

`sweep` and `report` run on the driver, `trial` in processes that Tune starts (light to import).
May import: all but cli. A new file owes a test that a killed sweep resumes.
"""
