"""Export a student as a folder that diffusers loads, verify it, and publish it to the hub.

Runs on the driver. The script that is copied into an export lies in its family's folder, `models/<family>/sample.py`.
May import: evaluate and all below.
"""
