"""Handlers of HTTP requests. They check and translate; other modules do the work."""
