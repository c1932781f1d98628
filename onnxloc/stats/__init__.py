"""Statistics on arrays: no models, no files, no state beyond what a caller holds."""

from onnxloc.stats.contrast import Contrast, welch
from onnxloc.stats.moments import Moments
from onnxloc.stats.multiple import benjamini_hochberg
from onnxloc.stats.resample import (
    Interval,
    cohens_d,
    cohens_d_paired,
    empirical_p,
    paired_bootstrap,
)

__all__ = [
    "Contrast",
    "Interval",
    "Moments",
    "benjamini_hochberg",
    "cohens_d",
    "cohens_d_paired",
    "empirical_p",
    "paired_bootstrap",
    "welch",
]
