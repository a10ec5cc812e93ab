"""Export a student as a folder that diffusers loads, verify it, and publish it to the hub.

Runs on the driver. The *_template.py files are copied into exports: they import diffusers and torch, nothing of ours.
May import: evaluate and all below. A new script owes a test that it gives our sampler's latents.
"""
