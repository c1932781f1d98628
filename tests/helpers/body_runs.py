"""Running models with branches and loops: plans of taps and edits on rows of one length."""

import numpy as np
from helpers import tiny_graphs as tiny

from onnxloc.graph.plan import Plan, Tap
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions

# One length: these graphs take no mask, and would be run one length at a time.
IDS = np.array([[1, 2, 3, 4, 5], [5, 4, 1, 2, 0], [3, 3, 2, 1, 4]])
# What takes each of the branches of `body_graphs.BRANCHED`.
DEEP = np.array([[9, 1], [2, 3]])
NEAR = np.array([[7, 1], [2, 3]])
ELSE = np.array([[1, 2], [3, 4]])


def batch_of(ids):
    return Batch.of(np.asarray(ids).tolist(), range(len(ids)), pad=0)


def opened(folder, proto) -> Model:
    return Model.open(tiny.write(folder, proto))


def compiled(model, **plan):
    return model.compile(Plan(**plan), RuntimeOptions())


def read(model, names, ids=IDS, pool="none"):
    taps = tuple(Tap(name, pool) for name in names)
    found = compiled(model, taps=taps).taps(batch_of(ids))
    return {tap.site: value for tap, value in found.items()}


def outputs(model, edited=(), edits=None, ids=IDS):
    session = compiled(model, outputs=("logits",), edits=tuple(edited))
    return session.outputs(batch_of(ids), edits)["logits"]


def random_edit(units, *, seed=0, rows=1, tokens=1):
    rng = np.random.default_rng(seed)
    mask = rng.random((rows, tokens, units)) < 0.5
    return mask, rng.standard_normal((rows, tokens, units)).astype(np.float32)


def close(found, expected, **options):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5, **options)
