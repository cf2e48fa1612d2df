"""Files and folders: atomic writes, bounded reads, listings, remote stores, and the cache.

- ``files``: write a file whole or not at all; read regular files only.
- ``staged_folder``: fill a folder of results whole or not at all.
- ``listing``: image files of a folder, in natural order.
- ``remote``: stores that fsspec reaches.
- ``cache``: the folder of exported networks and measured decisions.
"""
