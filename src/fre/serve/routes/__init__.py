"""Handlers of HTTP requests. They check and translate; other modules do the work.

- ``site``: page, state, metrics, sessions, samples, events; ``models``: models, rate, drift.
- ``predict``: predictions; ``source``: the source that is followed.
- ``jobs``: trainings and updates; ``results``: history and pictures.
"""
