"""HEART-ViT for edge devices: curvature-guided pruning of Vision Transformers, from checkpoint to Jetson Orin."""

__version__ = "0.1.0"
