"""Read one file: bytes -> frames -> a clip.

Runs in Ray Data's decode tasks, where each process pays seconds for heavy imports: torch in `transform` alone, no Ray.
May import: other files of this folder.
A new file owes a test on real containers that compares every frame with a decode of the whole file.
"""
