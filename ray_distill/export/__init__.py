"""Export a student as a folder that diffusers loads, verify it, and publish it to the hub.

Runs on the driver. The script for an export lies in its family's folder, `models/<family>/sample.py`.
May import: evaluate and all below it.
A new form of export owes a test on its own files: other software than ours samples from them, and gives our sampler's
latents.
"""
