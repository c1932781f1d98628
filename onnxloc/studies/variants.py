"""Ways to find a network that ought not to differ, and the readings that they share."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np

from onnxloc.activation_writer import ActivationWriter
from onnxloc.activations import Activations
from onnxloc.errors import OptionError
from onnxloc.graph.plan import Plan, Tap
from onnxloc.graph.sites import Site
from onnxloc.progress import Progress
from onnxloc.runtime.model import Model
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.stats.compare import Test
from onnxloc.stats.contrast import Contrast
from onnxloc.stats.halves import draw_halves
from onnxloc.stimuli import StimulusSet
from onnxloc.stimuli.model import Pool
from onnxloc.studies.presented import Presented, present
from onnxloc.studies.stored import MIN_ROWS, Rows, stored_contrast

__all__ = ["DEFAULT", "Reader", "Way", "ways"]

DEFAULT = "default"
# What texts are cut to where the localizer does not cut them: the published code's cut.
CUT = 12
Place = Literal["model", "copy", "reference"]


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to find a network.

    Attributes
    ----------
    name, about : str
        What it is called, and what is done otherwise than by default.
    stimuli : StimulusSet
        The two conditions.
    bos : bool
        Whether a BOS token is put in front.
    max_tokens : int
        What texts are cut to, a BOS token counted; 0 for no cut.
    pool : {"last", "mean", "sum", "max"}
        How tokens are pooled.
    magnitude : bool
        Compare absolute activations, or signed ones.
    test : {"welch", "student", "paired", "mannwhitney"}
        What ranks the units.
    half : {0, 1} or None
        Which random half of each condition is used; None for all stimuli.
    place : {"model", "copy", "reference"}
        Run in the model, in a copy of it, or in the model in float32 on the CPU.
    """

    name: str
    about: str
    stimuli: StimulusSet
    bos: bool
    max_tokens: int
    pool: Pool
    magnitude: bool = True
    test: Test = "welch"
    half: int | None = None
    place: Place = "model"

    @property
    def reading(self) -> tuple[StimulusSet, bool, int, Place]:
        """Ways that are equal in this share their forward passes."""
        return self.stimuli, self.bos, self.max_tokens, self.place


def ways(
    model: Model,
    stimuli: StimulusSet,
    *,
    second: StimulusSet | None = None,
    copy: str | None = None,
    reference: bool = False,
) -> tuple[tuple[Way, ...], tuple[str, ...]]:
    """The default way to find a network, then those that differ from it in one choice each.

    Parameters
    ----------
    model : Model
        Where it is found.
    stimuli : StimulusSet
        The localizer.
    second : StimulusSet, optional
        Another localizer of the same network.
    copy : str, optional
        What a copy of the model is called, if there is one.
    reference : bool
        Add a run in float32 on the CPU.

    Returns
    -------
    ways : tuple of Way
    notes : tuple of str
        Which could not be tried, and why.
    """
    info = model.bundle.info
    base = Way(
        name=DEFAULT,
        about="as the localizer and the model's metadata say",
        stimuli=stimuli,
        bos=info.add_bos,
        max_tokens=stimuli.max_tokens,
        pool=stimuli.pool,
    )
    found, notes = [base], []

    def add(name: str, about: str, **changed: object) -> None:
        found.append(replace(base, name=name, about=about, **changed))  # type: ignore[arg-type]

    if base.bos:
        add("no BOS", "no BOS token in front of a text", bos=False)
    elif info.bos_token_id is None:
        notes.append("the model has no BOS token to put in front of a text")
    elif base.max_tokens == 1:
        notes.append("texts of one token leave no room for a BOS token")
    else:
        add("with BOS", "a BOS token in front of each text, counted in the cut", bos=True)
    if base.max_tokens:
        add("whole texts", f"texts are not cut to {base.max_tokens} tokens", max_tokens=0)
    else:
        add(f"cut at {CUT}", f"texts are cut to {CUT} tokens", max_tokens=CUT)
    if base.pool == "mean":
        add("last token", "the last token instead of the mean over tokens", pool="last")
    else:
        add("mean of tokens", f"the mean over tokens instead of {base.pool}", pool="mean")
    add("signed", "signed activations instead of absolute ones", magnitude=False)
    add("Mann-Whitney", "Mann and Whitney's test instead of Welch's", test="mannwhitney")
    if min(len(stimuli.positive), len(stimuli.control)) < 2 * MIN_ROWS:
        notes.append(f"halves need {2 * MIN_ROWS} stimuli or more in each condition")
    else:
        for half, name in enumerate(("one half", "other half")):
            add(name, "a random half of each condition", half=half)
    if second is not None:
        add(
            second.name,
            "another set of stimuli, cut and pooled in its own way",
            stimuli=second,
            max_tokens=second.max_tokens,
            pool=second.pool,
        )
    if copy is not None:
        add(copy, "a copy of the model", place="copy")
    if reference:
        add("fp32 on the CPU", "float32 on the CPU", place="reference")
    return tuple(found), tuple(notes)


@dataclass(frozen=True, eq=False)
class Reader:
    """Runs stimuli, and compares the conditions in each way.

    Attributes
    ----------
    models : mapping of place to (Model, RuntimeOptions)
        What is run for ways of each place.
    patterns : tuple of str
        The sites to read.
    batch_size : int
        Texts run at a time.
    seed : int
        Of the halves.
    show_progress : bool
        Draw a bar, if standard error is a terminal.
    """

    models: dict[Place, tuple[Model, RuntimeOptions]]
    patterns: tuple[str, ...]
    batch_size: int
    seed: int
    show_progress: bool = False

    def contrasts(self, wanted: Sequence[Way]) -> Iterator[tuple[Way, Contrast]]:
        """The contrast of each way; those that share a reading come together.

        The activations of one reading at a time lie in a temporary folder.

        Raises
        ------
        OnnxlocError
            One of its kinds, if the model cannot take the stimuli, a copy has other units, or the
            disk has not enough space.
        """
        sites = self.sites("model")
        groups: dict[tuple[StimulusSet, bool, int, Place], list[Way]] = {}
        for way in wanted:
            groups.setdefault(way.reading, []).append(way)
        for own in groups.values():
            if [(s.name, s.units) for s in self.sites(own[0].place)] != [
                (s.name, s.units) for s in sites
            ]:
                raise OptionError(
                    "the copy has other sites or units than the model; give a copy of the same "
                    "architecture, read at sites with canonical names (such as block.*.out)"
                )
            with TemporaryDirectory(prefix="onnxloc-") as name:
                read = self._read(own, Path(name))
                for way in own:
                    yield way, self._compare(way, read[way.pool])

    def sites(self, place: Place) -> tuple[Site, ...]:
        """The sites that are read."""
        return tuple(self.models[place][0].sites.match(self.patterns))

    def _read(self, group: Sequence[Way], folder: Path) -> dict[Pool, Activations]:
        """The pooled activations of one reading, for each pooling that its ways need."""
        first = group[0]
        model, runtime = self.models[first.place]
        shown = present(model, first.stimuli, max_tokens=first.max_tokens, bos=first.bos)
        sites = self.sites(first.place)
        pools = list(dict.fromkeys(way.pool for way in group))
        writers = {}
        for pool in pools:
            (folder / pool).mkdir()
            writers[pool] = ActivationWriter(
                [(site.name, site.units, site.dtype) for site in sites], len(shown.is_positive)
            )
            writers[pool].start(folder / pool)
        self._run(model, runtime, shown, sites, writers)
        for writer in writers.values():
            writer.finish(shown.is_positive, shown.names, paired=shown.paired)
        return {pool: Activations.in_folder(folder / pool) for pool in pools}

    def _run(
        self,
        model: Model,
        runtime: RuntimeOptions,
        shown: Presented,
        sites: Sequence[Site],
        writers: dict[Pool, ActivationWriter],
    ) -> None:
        taps = {pool: [Tap(site.tensor, pool) for site in sites] for pool in writers}
        plan = Plan(taps=tuple(tap for own in taps.values() for tap in own))
        session = model.compile(plan, runtime)
        with Progress("reading", len(shown.is_positive), show=self.show_progress) as progress:
            for batch in shown.batches(self.batch_size):
                values = session.taps(batch)
                for pool, writer in writers.items():
                    writer.add(batch.rows, [values[tap] for tap in taps[pool]])
                progress.add(len(batch.rows))

    def _compare(self, way: Way, activations: Activations) -> Contrast:
        rows = self._rows(way, activations)
        contrast, _ = stored_contrast(activations, rows, way.test, magnitude=way.magnitude)
        return contrast

    def _rows(self, way: Way, activations: Activations) -> Rows:
        rows = Rows.of(activations)
        if way.half is None:
            return rows
        halves = draw_halves(activations.is_positive, 1, self.seed, paired=rows.paired)
        positive, control = (
            np.flatnonzero(subset[0]) for subset in halves.subsets(way.half, slice(0, 1))
        )
        return Rows(positive, control, rows.paired)
