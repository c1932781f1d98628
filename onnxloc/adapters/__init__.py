"""onnxloc inside other tools."""
