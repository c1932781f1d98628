"""Statistics on arrays: no models, no files, no state beyond what a caller holds."""

from onnxloc.stats.compare import TESTS, Test, compare, mann_whitney
from onnxloc.stats.contrast import Contrast, correction, paired, student, welch
from onnxloc.stats.correlate import Correlation, correlate
from onnxloc.stats.halves import draw_halves, subset_statistics
from onnxloc.stats.moments import Moments
from onnxloc.stats.multiple import benjamini_hochberg, holm
from onnxloc.stats.permute import MaxStatistic
from onnxloc.stats.reliability import Agreement, agreement, chance_dice, spearman, spearman_brown
from onnxloc.stats.resample import (
    Interval,
    cohens_d,
    cohens_d_paired,
    empirical_p,
    paired_bootstrap,
)

__all__ = [
    "TESTS",
    "Agreement",
    "Contrast",
    "Correlation",
    "Interval",
    "MaxStatistic",
    "Moments",
    "Test",
    "agreement",
    "benjamini_hochberg",
    "chance_dice",
    "cohens_d",
    "cohens_d_paired",
    "compare",
    "correction",
    "correlate",
    "draw_halves",
    "empirical_p",
    "holm",
    "mann_whitney",
    "paired",
    "paired_bootstrap",
    "spearman",
    "spearman_brown",
    "student",
    "subset_statistics",
    "welch",
]
