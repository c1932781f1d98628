"""Running instrumented graphs with onnxruntime."""
