"""Running stimuli and summing what the units do, condition by condition."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from onnxloc.activation_writer import ActivationWriter
from onnxloc.progress import Progress
from onnxloc.runtime.batches import ArrayBatch, Batch
from onnxloc.runtime.session import Session
from onnxloc.stats.moments import Moments

__all__ = ["response_moments"]


def response_moments(
    session: Session,
    widths: Sequence[int],
    batches: Iterable[Batch | ArrayBatch],
    is_positive: NDArray[np.bool_],
    *,
    magnitude: bool,
    show_progress: bool = False,
    writer: ActivationWriter | None = None,
) -> tuple[Moments, Moments]:
    """Moments of every unit of every tap in the positive and in the control condition."""
    ups = [Moments(width) for width in widths]
    downs = [Moments(width) for width in widths]
    with Progress("localizing", len(is_positive), show=show_progress) as progress:
        for batch in batches:
            values = list(session.taps(batch).values())
            if writer is not None:
                writer.add(batch.rows, values)
            positive = is_positive[batch.rows]
            for streams, rows in ((ups, positive), (downs, ~positive)):
                if not rows.any():
                    continue
                whole = bool(rows.all())
                for stream, value in zip(streams, values, strict=True):
                    some = value if whole else value[rows]
                    stream.update(np.abs(some) if magnitude else some)
            progress.add(len(batch.rows))
    return Moments.joined(ups), Moments.joined(downs)
