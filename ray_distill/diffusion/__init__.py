"""The mathematics of flow models: torch only.

Pure functions of tensors, with the letters of the papers. No network, role, rank or device is named here.
May import: torch, the standard library's typing and dataclasses, `types`.
A new file owes a closed-form test with a number from docs/oracles.md.
"""
