"""Values as a reader sees them."""

from __future__ import annotations

from fre.drawing.charts import number

DASH = "–"


def unit(value: float) -> str:
    """Return a figure in [0, 1] with three digits; it is never rounded up to a perfect 1."""
    return f"{value if value == 1 else min(value, 0.999):.3f}"


def percent(share: float) -> str:
    """Return a share to a tenth of a percent; only all is 100% and only none is 0%."""
    if share in (0, 1):
        return f"{share:.0%}"
    if share < 0.001:
        return f"{number(100 * share)}%"
    return f"{min(100 * share, 99.9):.1f}".removesuffix(".0") + "%"


def plain(value: object) -> str:
    """Return any plain value as text."""
    if value is None:
        return f"{DASH} (not recorded)"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, (list, tuple)):
        separator = " × " if value and all(isinstance(item, int) for item in value) else ", "
        return separator.join(str(item) for item in value)
    return str(value)


def p_text(p_value: float) -> str:
    """Return a p-value with two digits."""
    return f"{p_value:.2f}" if p_value >= 0.1 else f"{p_value:.2g}"
