"""A first configuration from a few answers: `ray-distill init`.

Runs on the user's machine, from the shipped configurations and from plans; it reads no weights and starts nothing.
May import: train's checks, and all below them; no Ray.
A new model owes a file in configs/ and a line in recipes.py: no number of a recipe stands here. `configs` is a link to
that folder, so that an installed package has the files too.
"""
