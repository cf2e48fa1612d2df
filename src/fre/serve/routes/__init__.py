"""Handlers of HTTP requests. They check and translate; other modules do the work.

- ``site``: page, state, metrics, sessions, samples, events; ``models``: models, rate, drift.
- ``predict``: predictions; ``jobs``: trainings and updates; ``results``: history and pictures.
"""
