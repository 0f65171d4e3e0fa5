"""ONNX graphs as both halves see them: what FP16 may do to one, without torch."""
