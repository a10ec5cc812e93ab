"""Import of FastVideo's configurations of DMD and Self-Forcing: its keys are the contract, its numerics are not.

Runs on the driver, before a RunConfig exists. A rule is a function of one key's value and the file around it.
May import: config and all below it, and simpletuner's readers of values and its report.
A new key owes a row in its table, and what it becomes here, or why it has no effect, or why it is refused.
"""
