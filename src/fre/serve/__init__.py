"""The detector as a service: REST for machines, and a page for people. Needs ``fre-vision[serve]``.

Process and settings:
- ``server``: listen, run, and end in bounded time; ``guard`` ends an interpreter that is stuck.
- ``service``: the parts of a running service; ``settings``: settings and limits.

HTTP:
- ``app``: the application; ``routes``: its handlers; ``schemas``: parameters and bodies.
- ``access``: access control and headers of each request.
- ``bodies``: request bodies within limits; ``responses``: JSON responses and errors.
- ``events``: server-sent events; ``metrics``: Prometheus metrics.

Work:
- ``registry``: the loaded models; ``batching``: from image files to stored results.
- ``watch``: the watched folder; ``drift``: a test whether recent parts have changed.
- ``staging``: uploads for trainings on disk; ``training``: training and update of a model.
- ``jobs``: queue of long work; ``samples``: images that the service draws itself.

Storage:
- ``database``: SQLite with one writer; ``results``: the history of results.
- ``pictures``: images and maps on disk, and how they are drawn; ``gallery``: responses with them;
  ``drawing_process``: pictures of huge images, drawn outside the service.
"""
