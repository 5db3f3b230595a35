"""From a static network to the neutral ONNX QDQ graph, `reference.onnx`."""
