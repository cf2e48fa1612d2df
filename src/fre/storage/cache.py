"""The folder of files that fre can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return ``$FRE_CACHE``, or the platform's cache folder."""
    import platformdirs

    return Path(os.environ.get("FRE_CACHE") or platformdirs.user_cache_dir("fre", False))
