"""Receivers of messages, one module a kind; ``open_sink`` turns a ``--to`` into one."""

from fre.line.sinks.open import Receivers, open_sinks

__all__ = ["Receivers", "open_sinks"]
