"""Inspect the images that arrive in a folder, each image once.

- ``follower``: find complete files in a folder, and score them in batches.
- ``journal``: record of scored and printed files, so that a crash repeats nothing.
- ``watch``: the loop of ``fre watch``; ``fre serve --watch`` has the same follower.
"""
