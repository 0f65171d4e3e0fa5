"""ONNX graphs, their parity with PyTorch, and the budget pack."""
