"""Reports: a page of one run, and one that compares runs; no server, no network and no other file is needed.

Runs on the driver at the end of a run, and as ``ray-distill report``: it reads the files of runs' folders (`run`,
`journal`) and renders templates by Jinja2 (`page`, `compare`), which escapes every text.
May import: evaluate, plan and track, and all below them; no Ray.
A new section owes a run that lacks what it shows, a text with markup in it, and no address of another machine.
"""
