"""Files and folders: atomic writes, bounded reads, listings, remote stores, and the cache.

- ``files``: write whole or not at all; read regular files only.
- ``listing``: image files of a folder, in natural order.
- ``remote``: stores that fsspec reaches.
- ``cache``: the folder of exported networks and measured decisions.
"""
