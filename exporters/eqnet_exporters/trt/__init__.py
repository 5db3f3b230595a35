"""TensorRT: what TensorRtExporter is made of."""
