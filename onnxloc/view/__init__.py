"""A folder of runs in a browser, on this machine only."""

from onnxloc.view.server import ViewServer, serve

__all__ = ["ViewServer", "serve"]
