"""Running stimuli and summing what the units do, condition by condition."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxloc.activation_writer import ActivationWriter
from onnxloc.checkpoint import Part
from onnxloc.progress import Progress
from onnxloc.runtime.batches import ArrayBatch, Batch
from onnxloc.runtime.session import Session
from onnxloc.stats.moments import Moments

__all__ = ["moments_state", "response_moments"]

# Of a state of moments, those with a value for each unit.
ARRAYS = ("origin", "offset", "squares")


def response_moments(
    session: Session,
    widths: Sequence[int],
    batches: Iterable[Batch | ArrayBatch],
    is_positive: NDArray[np.bool_],
    *,
    magnitude: bool,
    show_progress: bool = False,
    writer: ActivationWriter | None = None,
    part: Part | None = None,
) -> tuple[Moments, Moments]:
    """Moments of every unit of every tap in the positive and in the control condition.

    With a part of a checkpoint, the batches that were done before are not run again.
    """
    saved = None if part is None else part.saved
    ups, downs = _begin(widths, saved)
    skip = 0 if part is None else part.batches

    def state() -> dict[str, NDArray[Any]]:
        moments = moments_state(Moments.joined(ups), Moments.joined(downs))
        return moments if writer is None else {**moments, **writer.state()}

    with Progress("localizing", len(is_positive), show=show_progress) as progress:
        for number, batch in enumerate(batches):
            if number >= skip:
                values = list(session.taps(batch).values())
                with nullcontext() if part is None else part.batch(len(batch.rows), state):
                    if writer is not None:
                        writer.add(batch.rows, values)
                    positive = is_positive[batch.rows]
                    _add(ups, values, positive, magnitude=magnitude)
                    _add(downs, values, ~positive, magnitude=magnitude)
            progress.add(len(batch.rows))
    return Moments.joined(ups), Moments.joined(downs)


def moments_state(positive: Moments, control: Moments) -> dict[str, NDArray[Any]]:
    """What a checkpoint keeps of both conditions."""
    both = (("positive", positive), ("control", control))
    return {f"{name}_{key}": v for name, m in both for key, v in m.state().items()}


def _begin(
    widths: Sequence[int], saved: Mapping[str, NDArray[Any]] | None
) -> tuple[list[Moments], list[Moments]]:
    """Moments of each tap in both conditions, at the start or as they were saved."""
    if saved is None:
        return [Moments(width) for width in widths], [Moments(width) for width in widths]
    stops = np.cumsum(widths)[:-1]
    found = []
    for name in ("positive", "control"):
        parts = {key: np.split(saved[f"{name}_{key}"], stops) for key in ARRAYS}
        count = saved[f"{name}_count"]
        found.append(
            [
                Moments.from_state({"count": count, **{key: parts[key][i] for key in ARRAYS}})
                for i in range(len(widths))
            ]
        )
    return found[0], found[1]


def _add(
    streams: Sequence[Moments],
    values: Sequence[NDArray[Any]],
    rows: NDArray[np.bool_],
    *,
    magnitude: bool,
) -> None:
    if not rows.any():
        return
    whole = bool(rows.all())
    for stream, value in zip(streams, values, strict=True):
        some = value if whole else value[rows]
        stream.update(np.abs(some) if magnitude else some)
