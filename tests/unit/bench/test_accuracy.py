from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import scipy.special
import scipy.stats
from PIL import Image

from heartvit_edge.bench.accuracy import Engine, evaluate, kl_divergence, log_softmax, sample_indices
from heartvit_edge.data.preprocess import preprocess_one
from heartvit_edge.errors import CheckError
from heartvit_edge.spec.model import Preprocessing

PREPROCESSING = Preprocessing(
    img_size=4, interpolation="bilinear", crop_pct=1.0, crop_mode="center", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)
)
NUM_IMAGES, NUM_CLASSES = 23, 7


def ignore(*_):
    pass


def numbered_batches(batch_size):
    """Return batches whose every pixel is the image's number, so that an engine knows which image it sees."""
    numbers = np.arange(NUM_IMAGES, dtype=np.float32)
    images = np.broadcast_to(numbers[:, None, None, None], (NUM_IMAGES, 3, 4, 4))
    return [images[n : n + batch_size] for n in range(0, NUM_IMAGES, batch_size)]


def make_engine(name, logits, kept=None, min_batch=1):
    def answer(batch):
        numbers = batch[:, 0, 0, 0].astype(int)
        outputs = {"logits": logits[numbers].astype(np.float32)}
        return outputs if kept is None else outputs | {"kept_2": kept[numbers].astype(np.int32)}

    return Engine(entry=name, sha256=name * 8, answer=answer, min_batch=min_batch)


@pytest.fixture
def logits():
    random = np.random.default_rng(0)
    dense = random.normal(0, 3, (NUM_IMAGES, NUM_CLASSES)).astype(np.float32)
    return dense, (dense + random.normal(0, 2, dense.shape)).astype(np.float32)


def run(engines, labels=None, batch_size=5, num_samples=0):
    return evaluate(
        engines,
        numbered_batches(batch_size),
        labels,
        NUM_IMAGES,
        PREPROCESSING,
        num_samples,
        progress=ignore,
    )


def test_kl_is_scipys_relative_entropy():
    random = np.random.default_rng(1)
    p, q = random.normal(0, 4, (2, 50, 10))
    expected = scipy.stats.entropy(scipy.special.softmax(p, axis=1), scipy.special.softmax(q, axis=1), axis=1)
    assert kl_divergence(log_softmax(p), log_softmax(q)) == pytest.approx(expected, rel=1e-9)


def test_kl_of_huge_logits_is_finite_and_never_negative():
    p = log_softmax(np.array([[1e4, 0.0, -1e4], [5.0, 5.0, 5.0]]))
    assert kl_divergence(p, p).tolist() == [0.0, 0.0]
    assert kl_divergence(p, log_softmax(np.array([[0.0, 1e4, 0.0], [5.0, 5.0, 5.0]])))[0] == pytest.approx(1e4)


@pytest.mark.parametrize("batch_size", [1, 5, 23])
def test_counts_and_kl_are_those_of_all_images_at_once_whatever_the_batch_size(logits, batch_size):
    dense, pruned = logits
    labels = np.random.default_rng(2).integers(NUM_CLASSES, size=NUM_IMAGES)
    (first, second), _ = run([make_engine("dense", dense), make_engine("macs-0.5", pruned)], labels, batch_size)
    order = np.argsort(pruned, axis=1)[:, ::-1]
    assert second.correct == tuple(order[:, 0] == labels)
    assert second.top1_correct == sum(second.correct)
    assert second.top5_correct == sum(label in row[:5] for label, row in zip(labels, order, strict=True))
    assert second.agreeing == (pruned.argmax(1) == dense.argmax(1)).sum()
    p, q = (scipy.special.softmax(x.astype(np.float64), axis=1) for x in (dense, pruned))
    assert second.kl_nats == pytest.approx(scipy.stats.entropy(p, q, axis=1), rel=1e-9)
    assert (first.agreeing, set(first.kl_nats)) == (NUM_IMAGES, {0.0})
    assert (first.entry, second.entry) == ("dense", "macs-0.5")


def test_without_labels_there_is_no_accuracy_and_with_five_classes_no_top5(logits):
    dense, _ = logits
    (unlabelled,), _ = run([make_engine("dense", dense)])
    assert (unlabelled.top1_correct, unlabelled.top5_correct, unlabelled.correct) == (None, None, None)
    (few,), _ = run([make_engine("dense", dense[:, :5])], np.zeros(NUM_IMAGES, dtype=np.int64))
    assert few.top1_correct is not None
    assert few.top5_correct is None


def test_a_batch_below_the_engines_smallest_is_filled_up_and_the_filling_not_counted(logits):
    dense, _ = logits
    seen = []

    def answer(batch):
        seen.append(len(batch))
        return {"logits": dense[batch[:, 0, 0, 0].astype(int)]}

    (found,), _ = run([Engine(entry="dense", sha256="d", answer=answer, min_batch=4)], batch_size=5)
    assert seen == [5, 5, 5, 5, 4]  # the last batch has three images
    assert (found.agreeing, len(found.kl_nats)) == (NUM_IMAGES, NUM_IMAGES)


def test_answers_outlive_an_engine_that_reuses_its_output_memory(logits):
    dense, pruned = logits
    memory = np.zeros((5, NUM_CLASSES), dtype=np.float32)

    def reusing(values):
        def answer(batch):
            memory[: len(batch)] = values[batch[:, 0, 0, 0].astype(int)]
            return {"logits": memory[: len(batch)]}

        return answer

    entries, _ = run([Engine("dense", "d", reusing(dense)), Engine("macs-0.5", "m", reusing(pruned))])
    assert entries[1].agreeing == (pruned.argmax(1) == dense.argmax(1)).sum()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_engine_that_answers_no_number_is_named_with_the_image(logits, bad):
    dense, pruned = logits
    pruned[17, 3] = bad
    with pytest.raises(CheckError, match=r"engine macs-0\.5 answers image 17 with logits that are NaN or infinite"):
        run([make_engine("dense", dense), make_engine("macs-0.5", pruned)])


def test_the_first_engine_must_be_the_dense_one(logits):
    with pytest.raises(ValueError, match="dense engine first"):
        run([make_engine("macs-0.5", logits[0])])


def test_samples_hold_predictions_and_kept_patches_of_every_entry(logits):
    dense, pruned = logits
    kept = np.sort(np.random.default_rng(3).permuted(np.tile(np.arange(16), (NUM_IMAGES, 1)), axis=1)[:, :6], axis=1)
    labels = np.arange(NUM_IMAGES) % NUM_CLASSES
    engines = [make_engine("dense", dense), make_engine("macs-0.5", pruned, kept)]
    _, samples = run(engines, labels, num_samples=4)
    assert [sample.index for sample in samples] == [0, 5, 11, 17]
    for sample in samples:
        assert sample.label == labels[sample.index]
        assert sample.predictions == {"dense": dense[sample.index].argmax(), "macs-0.5": pruned[sample.index].argmax()}
        assert sample.kept == {"dense": (), "macs-0.5": ((2, tuple(kept[sample.index])),)}


def test_a_sample_is_the_picture_before_normalisation():
    picture = np.random.default_rng(4).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    engine = Engine("dense", "d", lambda batch: {"logits": np.zeros((len(batch), 3), dtype=np.float32)})
    batch = preprocess_one(picture, PREPROCESSING)[None]
    _, (sample,) = evaluate([engine], [batch], None, 1, PREPROCESSING, 1, progress=ignore)
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(sample.png_base64))))
    assert np.array_equal(shown, picture)


@pytest.mark.parametrize(
    ("num_images", "num_samples", "expected"), [(3, 8, (0, 1, 2)), (100, 4, (0, 25, 50, 75)), (9, 0, ())]
)
def test_sample_indices_are_spread_evenly(num_images, num_samples, expected):
    assert sample_indices(num_images, num_samples) == expected


def test_progress_is_told_after_each_batch(logits):
    told = []
    evaluate(
        [make_engine("dense", logits[0])],
        numbered_batches(10),
        None,
        NUM_IMAGES,
        PREPROCESSING,
        0,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(10, 23), (20, 23), (23, 23)]
