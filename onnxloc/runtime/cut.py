"""A model cut in two at a site: the beginning run once, the rest as often as one likes."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onnxloc.errors import OptionError
from onnxloc.graph.partition import check_cut
from onnxloc.graph.plan import Plan, Tap
from onnxloc.graph.sites import Site
from onnxloc.graph.topology import Topology
from onnxloc.runtime.batches import Batch
from onnxloc.runtime.model import Model
from onnxloc.runtime.operands import EditValues
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.runtime.readings import Reading
from onnxloc.runtime.session import At, Session

__all__ = ["Cut"]


@dataclass(frozen=True, eq=False)
class Cut:
    """A model cut at a site.

    Between the two parts the site's values are an array, and any Python function may change it.

    Attributes
    ----------
    site : Site
        Where it is cut: a tensor ``[batch, tokens, features]``.
    before, behind : Session
        The two parts.
    """

    site: Site
    before: Session
    behind: Session

    @classmethod
    def at(cls, model: Model, site: str, plan: Plan, runtime: RuntimeOptions | None = None) -> Self:
        """Cut a model.

        Parameters
        ----------
        model : Model
            The model.
        site : str
            A site's name, such as "block.15.out".
        plan : Plan
            What is read behind the cut, and what can be changed there.
        runtime : RuntimeOptions, optional
            Provider and threads.

        Raises
        ------
        OptionError
            If the plan reads or edits what does not lie behind the cut, or there is a way past it,
            such as a skip connection: the message names the tensors that cross.
        AnatomyError
            If the model has no such site.
        """
        runtime = runtime or RuntimeOptions()
        found = model.sites.find(site)
        if plan.given:
            raise OptionError("the plan of a cut is given nothing; the cut gives it the site")
        check_cut(Topology(model.graph.proto), model.sites, found, plan)
        before = model.compile(Plan(taps=(Tap(found.tensor, "none"),)), runtime)
        behind = model.compile(replace(plan, given=(found.tensor,)), runtime)
        return cls(found, before, behind)

    def prefix(self, batch: Batch) -> NDArray[Any]:
        """The values at the cut, ``[rows, tokens, features]``.

        Half precision is read as single. What stands at padding means nothing.

        Raises
        ------
        ModelError
            If the model fails, or cannot take the batch.
        """
        (values,) = self.before.taps(batch).values()
        return np.asarray(values)

    def suffix(
        self, batch: Batch, values: NDArray[Any], edits: EditValues | None = None, at: At = None
    ) -> Reading:
        """What the plan reads, with these values at the cut.

        Parameters
        ----------
        batch : Batch
            The batch of `prefix`.
        values : ndarray, [rows, tokens, features]
            Its values, or what a function made of them.
        edits, at
            As those of `Session.read`.

        Raises
        ------
        OptionError
            If the values, the edits or the positions do not fit.
        ModelError
            If the model fails.
        """
        return self.behind.read(batch, edits, {self.site.tensor: values}, at)
