"""A tiny dense model and its images."""

from __future__ import annotations

import pytest
from fakes.small_finetune import write_images
from fakes.tiny_vit import load_tiny


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return load_tiny(tmp_path_factory.mktemp("dense"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return the path of labelled noise."""
    return write_images(tmp_path_factory.mktemp("data") / "noise.npz")
