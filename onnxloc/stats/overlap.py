"""Overlap of two sets of units, beside what two random sets of their sizes share."""

from dataclasses import dataclass

from onnxloc.errors import OptionError

__all__ = ["Overlap", "overlap"]

LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Two sets of the same units.

    Attributes
    ----------
    shared : int
        Units in both.
    dice : float
        Twice the shared units over the units of both; 1 if both are empty.
    chance, chance_low, chance_high : float
        Expected Dice of two sets of those sizes drawn at random, and the interval that holds the
        middle 95 % of draws.
    p : float
        Share of draws that share at least as many units.
    """

    shared: int
    dice: float
    chance: float
    chance_low: float
    chance_high: float
    p: float


def overlap(n_units: int, first: int, second: int, shared: int) -> Overlap:
    """Compare the overlap of two sets with chance.

    The number that two random sets share has a hypergeometric distribution, with mean
    `first` · `second` / `n_units`.

    Parameters
    ----------
    n_units : int
        Units that either set could have held.
    first, second : int
        Sizes of both sets.
    shared : int
        Units in both.

    Raises
    ------
    OptionError
        If there are no such sets.
    """
    from scipy.stats import hypergeom

    least = max(0, first + second - n_units)
    if not (0 <= max(first, second) <= n_units and least <= shared <= min(first, second)):
        raise OptionError(
            f"sets of {first} and {second} of {n_units} units cannot share {shared} of them"
        )
    total = first + second
    if not total:
        return Overlap(shared=0, dice=1.0, chance=1.0, chance_low=1.0, chance_high=1.0, p=1.0)
    drawn = hypergeom(n_units, first, second)
    low, high = drawn.ppf([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Overlap(
        shared=shared,
        dice=2 * shared / total,
        chance=2 * first * second / n_units / total,
        chance_low=2 * float(low) / total,
        chance_high=2 * float(high) / total,
        # At and above what is shared; rounding may put the sum a little over 1.
        p=min(1.0, float(drawn.sf(shared - 1))),
    )
