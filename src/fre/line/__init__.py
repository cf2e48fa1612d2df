"""Inspect images as they arrive, and tell others.

- ``frame``: a frame, and the protocol of sources; ``sources``: a text becomes a source.
- ``folder``, ``follower``, ``lock``: a folder, whose files are complete and watched once.
- ``live``, ``video``, ``genicam``, ``trigger``: cameras, streams and videos.
- ``payload``: the message about an image.
- ``journal``: scored files and undelivered messages, so that a crash repeats and loses nothing.
- ``delivery``: each receiver gets every message; ``sinks``: the receivers.
- ``watch``: the loop of ``fre watch`` and ``fre serve --source``.
"""
