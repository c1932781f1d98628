"""What can be read and changed in an ONNX graph, and the rewriting that does it."""
