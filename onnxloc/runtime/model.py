"""A model ready to be used: its bundle, its graph, its sites, and sessions of plans."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onnxloc.bundle import Bundle
from onnxloc.errors import AnatomyError, BundleError, ModelError, OptionError
from onnxloc.graph.anatomy import label_sites
from onnxloc.graph.fused import with_probabilities
from onnxloc.graph.load import Graph, load_graph
from onnxloc.graph.plan import Plan
from onnxloc.graph.rewrite import instrument
from onnxloc.graph.sites import Site, SiteTable, find_sites
from onnxloc.graph.topology import Topology
from onnxloc.registry import one_line
from onnxloc.runtime.feeds import is_text_model
from onnxloc.runtime.probe import trace
from onnxloc.runtime.providers import RuntimeOptions
from onnxloc.runtime.session import Session

__all__ = ["Model"]


@dataclass(frozen=True)
class Model:
    """A model on disk with its sites.

    Attributes
    ----------
    bundle : Bundle
        Where it lies.
    graph : Graph
        Its graph, without weights.
    example : mapping of str to ndarray or None
        A few stimuli for each input of a model that does not take text; see `shown`.
    """

    bundle: Bundle
    graph: Graph
    example: Mapping[str, NDArray[Any]] | None = field(default=None, compare=False)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a bundle, an ``.onnx`` file or a folder as optimum writes it.

        Raises
        ------
        ModelError
            If there is no model, or it is damaged.
        """
        bundle = Bundle.open(path)
        return cls(bundle, load_graph(bundle))

    @cached_property
    def sites(self) -> SiteTable:
        """The sites, with canonical names where the structure gives them.

        The graph is run twice on tiny inputs to see what its axes are. Where attention is one
        operation that can put out its probabilities, they are a site, too.
        """
        shown = with_probabilities(self.graph.proto)
        if shown is not None:
            try:
                return self._sites_of(replace(self.graph, proto=shown))
            except ModelError:
                # Not every kernel can put them out in every case. If this was not why, the model
                # fails again as it is.
                pass
        return self._sites_of(self.graph)

    def _sites_of(self, graph: Graph) -> SiteTable:
        topology = Topology(graph.proto)
        runs = trace(graph, topology, self.example)
        sites = find_sites(topology, runs.traces, runs.sizes)
        return SiteTable(label_sites(sites, topology))

    @property
    def takes_text(self) -> bool:
        """Whether token ids are all that has to be known to fill its inputs."""
        return is_text_model(self.graph.inputs)

    def shown(self, example: Mapping[str, NDArray[Any]]) -> "Model":
        """The model with its sites as they are on such stimuli.

        A model that takes no text may leave sizes open, of an image say. On arrays every axis but
        the first has a size, so that a feature map ``[batch, channels, height, width]`` has
        channels × height × width units. A model of text stays as it is.

        Parameters
        ----------
        example : mapping of str to ndarray
            For each input some stimuli, one or more; an array without axes is for all stimuli.
        """
        if self.takes_text:
            return self
        return replace(self, example={name: np.array(value) for name, value in example.items()})

    @property
    def blocks(self) -> int:
        """Number of blocks; 0 if the graph has none."""
        return max((site.block + 1 for site in self.sites if site.block is not None), default=0)

    @property
    def description(self) -> dict[str, str | int | None]:
        """What a run's summary says of the model."""
        info = self.bundle.info
        return {
            "name": info.name,
            "hash": self.graph.hash,
            "framework": info.framework,
            "blocks": self.blocks or None,
        }

    @property
    def logits(self) -> Site:
        """The site of the logits.

        Raises
        ------
        AnatomyError
            If the model has none.
        """
        try:
            return self.sites.find("logits")
        except AnatomyError as error:
            raise AnatomyError(
                f"{self.bundle.model_path} has no logits over a vocabulary, so texts cannot be "
                "scored with it"
            ) from error

    def compile(self, plan: Plan, options: RuntimeOptions) -> Session:
        """A session of a plan."""
        return Session(instrument(self.graph, self.sites, plan), options)

    def encode(self, texts: list[str], *, bos: bool, max_tokens: int = 0) -> list[list[int]]:
        """Token ids of each text, cut to `max_tokens` (a BOS token counted; 0 for no cut).

        Raises
        ------
        BundleError
            If the bundle has no tokenizer, or `bos` is asked of a model that has no BOS token.
        OptionError
            If a text has no tokens, or more than the model takes.
        """
        if max_tokens < 0:
            raise OptionError("the number of tokens to cut at must be 0 (no cut) or more")
        if bos and self.bundle.info.bos_token_id is None:
            raise BundleError(f"{self.bundle.folder}: the model has no BOS token; use --no-bos")
        front = [self.bundle.info.bos_token_id] if bos else []
        return self._encode(texts, [i for i in front if i is not None], max_tokens)

    def encode_scored(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text behind a prefix token, so that every token can be scored.

        The prefix is the BOS token, or the EOS token where there is none, as
        lm-evaluation-harness has it.

        Raises
        ------
        BundleError
            If the model has neither, or the bundle has no tokenizer.
        OptionError
            If a text has no tokens, or more than the model takes.
        """
        info = self.bundle.info
        prefix = info.bos_token_id if info.bos_token_id is not None else info.eos_token_id
        if prefix is None:
            raise BundleError(
                f"{self.bundle.folder} names neither a BOS nor an EOS token; add bos_token_id to "
                "its bundle.json, or to its config.json"
            )
        return self._encode(texts, [prefix], 0)

    def _encode(self, texts: list[str], front: list[int], max_tokens: int) -> list[list[int]]:
        for text in texts:
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise OptionError(f"this text is not valid Unicode: {text!r:.60}") from error
        tokenizer = self.bundle.tokenizer
        try:
            encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
        except Exception as error:  # tokenizers raises bare Exception for a text it cannot split
            raise BundleError(
                f"the tokenizer of {self.bundle.folder} fails: {one_line(error)}"
            ) from error
        if front and max_tokens and max_tokens <= len(front):
            raise OptionError("--max-tokens 1 leaves nothing of a text behind the BOS token")
        limit = self.bundle.info.max_tokens
        out = []
        for text, one in zip(texts, encoded, strict=True):
            if not one.ids:
                raise OptionError(f"this text has no tokens: {text!r:.60}")
            ids = [*front, *one.ids]
            if max_tokens:
                ids = ids[:max_tokens]
            if limit is not None and len(ids) > limit:
                raise OptionError(
                    f"this text has {len(ids)} tokens, the model takes {limit}; shorten it: "
                    f"{text!r:.60}"
                )
            out.append(ids)
        return out

    @property
    def pad(self) -> int:
        """Id that fills the end of short rows; what it is does not matter."""
        return self.bundle.info.pad_token_id or 0
