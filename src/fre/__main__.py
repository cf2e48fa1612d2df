"""``python -m fre`` is ``fre``."""

from __future__ import annotations

from fre.cli import main

if __name__ == "__main__":
    main()
