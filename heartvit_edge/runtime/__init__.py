"""Running engines: one Runner protocol over ONNX Runtime and TensorRT."""
