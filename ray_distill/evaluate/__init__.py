"""Evaluate a student by samples against its teacher.

The driver chooses and reports (`compare`, `guided`, `report`, `prompts`); networks run in Ray tasks (`generate`,
`latents`).
May import: checkpoint and all below it.
A new metric owes its unit, its definition in docs/metrics.md, and a fault that it names.
"""
