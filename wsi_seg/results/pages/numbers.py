"""Numbers as people write them, with no digit that was not measured."""

from __future__ import annotations

import math

# What summaries keep of an area in mm²; a pixel of 1 µm has as much.
SMALLEST_MM2 = 1e-6
UM2_PER_MM2 = 1e6
# Areas from here on are written in mm².
LARGE_UM2 = 10_000
# With fewer pixels one of them is more than a tenth of a percent.
PIXELS_FOR_TENTHS = 1000
# The median of fewer regions has two digits, and of fewer than the least no meaning.
MANY_REGIONS, LEAST_REGIONS = 100, 3


def mm2_text(mm2: float | None, pixel_mm2: float = SMALLEST_MM2) -> str:
    """Return an area in mm² with three digits, none of them finer than a pixel; "" for None.

    Args:
        mm2: the area.
        pixel_mm2: area of a pixel of the map that it was counted in.
    """
    if mm2 is None:
        return ""
    if mm2 <= 0:
        return "0"
    carried = math.floor(-math.log10(max(pixel_mm2, SMALLEST_MM2)) + 1e-9)
    decimals = max(0, min(2 - math.floor(math.log10(mm2)), carried))
    text = f"{mm2:,.{decimals}f}"
    return text if float(text.replace(",", "")) else f"below {10.0**-decimals:.{decimals}f}"


def percent_text(share: float | None, pixels: float | None = None) -> str:
    """Return a share in percent, with one decimal where it was counted in enough pixels; "" for None.

    A share is never rounded to none or all where it is neither.

    Args:
        share: 0 … 1; what rounding of times puts above is cut.
        pixels: of which it is a share; None: enough.
    """
    if share is None:
        return ""
    if not share:
        return "0 %"
    share = min(share, 1.0)
    decimals = 1 if pixels is None or pixels >= PIXELS_FOR_TENTHS else 0
    unit = 10.0**-decimals
    if 100 * share < unit / 2:
        return f"below {unit:.{decimals}f} %"
    if share < 1 and 100 * share >= 100 - unit / 2:
        return f"above {100 - unit:.{decimals}f} %"
    return f"{100 * share:.{decimals}f} %"


def region_area_text(um2: float | None, digits: int = 3) -> str:
    """Return an area with so many digits, in µm² or, from 0.01 mm² on, in mm²; "" for None."""
    if not um2:
        return "" if um2 is None else "0 µm²"
    rounded = round(um2, digits - 1 - math.floor(math.log10(um2)))
    if rounded < LARGE_UM2:
        return f"{rounded:,.{max(0, digits - 1 - math.floor(math.log10(rounded)))}f} µm²"
    mm2 = rounded / UM2_PER_MM2
    return f"{mm2:,.{max(0, digits - 1 - math.floor(math.log10(mm2)))}f} mm²"


def median_text(um2: float | None, count: int) -> str:
    """Return the median area of so many regions: two digits of few, "" of fewer than three."""
    if count < LEAST_REGIONS:
        return ""
    return region_area_text(um2, 3 if count >= MANY_REGIONS else 2)


def duration_text(seconds: float | None) -> str:
    """Return a time such as 0.4 s, 12 s, 3 min 20 s or 2 h 5 min; "" for None."""
    if seconds is None:
        return ""
    if seconds < 59.5:
        return (
            f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
        )
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes} min" if minutes else f"{hours:,} h"


def cut(text: str, length: int) -> str:
    """Return a text of at most `length` characters, with an ellipsis where some are left out."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
