"""Look at this machine, without a cluster: `ray-distill check --machine`.

Runs on the user's machine, within seconds, and imports neither torch nor Ray, so that it works where these are broken.
May import: the tools that everything may import; `needs` alone imports plan and all below it.
A new line owes a test with its absence planted, and says how to get what is missing.
"""
