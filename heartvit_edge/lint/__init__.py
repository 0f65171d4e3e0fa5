"""What a target would refuse of an ONNX graph, found without the target; needs onnx alone."""
