"""Shards: what is finished is read, the rest is computed, and all are joined in order."""

from __future__ import annotations

import numpy as np
import pytest

from heartvit_edge.sensitivity.shards import join_shards, run_shards


def compute_into(called):
    def compute(number):
        called.append(number)
        return {"heads": np.full((2, 3), number, dtype=np.float32)}

    return compute


def test_a_second_run_computes_only_what_the_first_did_not_finish(tmp_path):
    first, second, told = [], [], []

    def fails(number):
        if number == 2:
            raise KeyboardInterrupt
        return compute_into(first)(number)

    with pytest.raises(KeyboardInterrupt):
        run_shards(range(4), fails, tmp_path, lambda _: None)
    found = run_shards(range(4), compute_into(second), tmp_path, told.append)
    assert (first, second, told) == ([0, 1], [2, 3], [0, 1, 2, 3])
    assert {number: shard["heads"][0, 0] for number, shard in found.items()} == {0: 0, 1: 1, 2: 2, 3: 3}
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"00000{number}.npz" for number in range(4)]


def test_an_interrupted_write_leaves_no_shard(tmp_path, monkeypatch):
    def half(file, **_):
        file.write(b"PK")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", half)
    with pytest.raises(KeyboardInterrupt):
        run_shards([0], compute_into([]), tmp_path, lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_shards_are_joined_by_number_whatever_order_they_came_in():
    shards = {
        2: {"heads": np.array([[5.0]], dtype=np.float32)},
        0: {"heads": np.array([[1.0], [2.0]], dtype=np.float32)},
        1: {"heads": np.array([[3.0], [4.0]], dtype=np.float32)},
    }
    joined = join_shards(shards)
    assert joined["heads"].tolist() == [[1], [2], [3], [4], [5]]
    assert joined["heads"].dtype == np.float32
