"""Distillation of the pruned model from the dense one, and the dense control that is trained alike."""
