"""The neutral ONNX graph: its operators, its names, and how it is read."""
