from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from fakes.measurements import make_measurement, make_row, make_trial

from heartvit_edge.bench.accuracy_figures import accuracy_figures
from heartvit_edge.bench.figures import Figure, latency_figures, ratio_figures
from heartvit_edge.errors import InputError
from heartvit_edge.spec.evaluation import EntryEvaluation, Evaluation
from heartvit_edge.spec.model import ImageSetRef


def test_a_figure_without_a_value_must_say_why():
    with pytest.raises(ValueError, match="exactly one of value and reason"):
        Figure(value=None)
    with pytest.raises(ValueError, match="exactly one of value and reason"):
        Figure(value=1.0, reason="because")


def test_percentiles_are_those_of_every_sample_of_every_trial():
    random = np.random.default_rng(0)
    trials = [random.exponential(5, 400).tolist() for _ in range(3)]
    found = latency_figures(make_row("dense", [make_trial(10.0 * n, trial) for n, trial in enumerate(trials)]))
    everything = np.concatenate(trials)
    assert found.num_samples == 1200
    for figure, share in ((found.p50_ms, 0.5), (found.p90_ms, 0.9), (found.p99_ms, 0.99)):
        assert figure.value == np.quantile(everything, share, method="inverted_cdf")
    assert found.mean_ms.value == pytest.approx(everything.mean())


def test_mean_interval_is_that_of_the_trials_means():
    trials = [[1.0, 3.0], [2.0, 4.0], [3.0, 7.0]]
    found = latency_figures(make_row("dense", [make_trial(n, trial) for n, trial in enumerate(trials)])).mean_ms
    low, high = scipy.stats.t.interval(0.95, 2, loc=10 / 3, scale=scipy.stats.sem([2.0, 3.0, 5.0]))
    assert (found.low, found.high) == pytest.approx((max(low, 0.0), high), rel=1e-6)


def test_p99_is_refused_with_499_samples_and_given_with_500():
    refused = latency_figures(make_row("dense", [make_trial(0, [1.0] * 499)])).p99_ms
    assert refused.value is None
    assert refused.reason == "p99 needs at least 500 samples, found 499: trials 1.1 times as long have them"
    assert latency_figures(make_row("dense", [make_trial(0, [1.0] * 500)])).p99_ms.value == 1.0


def test_throughput_counts_images_over_the_windows_with_the_time_between_calls():
    trials = [make_trial(n, [8.0] * 25, between_ms=2.0) for n in range(2)]
    assert latency_figures(make_row("dense", trials, batch_size=4)).images_per_s.value == pytest.approx(400.0)


def test_ratios_compare_with_the_dense_engine_of_the_same_batch_size(tmp_path):
    dense = make_row("dense", [make_trial(0, [8.0] * 30, between_ms=2.0)])
    pruned = make_row("macs-0.5", [make_trial(1, [4.0] * 60, between_ms=1.0)])
    other = make_row("dense", [make_trial(2, [50.0] * 30)], batch_size=8)
    found = ratio_figures(make_measurement(tmp_path, [dense, other, pruned]), pruned)
    assert found.latency.value == pytest.approx(0.5)
    assert (found.latency.low, found.latency.high) == pytest.approx((0.5, 0.5))
    assert found.throughput.value == pytest.approx(2.0)


def test_ratios_of_the_dense_engine_are_one_and_without_it_there_are_none(tmp_path):
    dense, pruned = (make_row(name, [make_trial(0, [8.0] * 30)]) for name in ("dense", "macs-0.5"))
    assert ratio_figures(make_measurement(tmp_path, [dense, pruned]), dense).latency.value == 1.0
    alone = ratio_figures(make_measurement(tmp_path, [pruned]), pruned)
    assert alone.latency.reason == "the dense engine was not measured at batch size 1"


def make_evaluation(**changes):
    answers = EntryEvaluation(
        entry="dense",
        engine_sha256="e" * 64,
        top1_correct=81,
        top5_correct=100,
        agreeing=263,
        kl_nats=(0.1, 0.2, 0.6) + (0.0,) * 260,
    )
    return Evaluation(
        pack_sha256="p" * 64,
        images=ImageSetRef(name="images", num_images=263, sha256="i" * 64, labelled=True),
        num_images=263,
        backend="onnxruntime",
        precision="fp32",
        entries=(answers.model_copy(update=changes),),
        samples=(),
        classes=(),
        command="heartvit-edge evaluate pack --data images",
    )


def test_accuracy_is_a_share_with_its_wilson_interval():
    found = accuracy_figures(make_evaluation(), "dense")
    expected = scipy.stats.binomtest(81, 263).proportion_ci(0.95, method="wilson")
    assert found.top1.value == pytest.approx(81 / 263)
    assert (found.top1.low, found.top1.high) == pytest.approx((expected.low, expected.high))
    assert found.agreement.value == 1.0
    assert found.kl_nats.value == pytest.approx(0.9 / 263)


def test_accuracy_says_why_there_is_no_top1_or_top5():
    unlabelled = accuracy_figures(make_evaluation(top1_correct=None, top5_correct=None), "dense")
    assert (unlabelled.top1.value, unlabelled.top5.value) == (None, None)
    assert unlabelled.top1.reason == unlabelled.top5.reason == "the images have no labels"
    few = accuracy_figures(make_evaluation(top5_correct=None), "dense")
    assert few.top5.reason == "the model has fewer than six classes"


def test_accuracy_of_an_unknown_entry_names_those_there_are():
    with pytest.raises(InputError, match=r"no entry 'macs-0\.1', only dense"):
        accuracy_figures(make_evaluation(), "macs-0.1")


def compared(first, second):
    """Return an evaluation of ``dense`` and ``other``, each right on the images given, of 263."""
    evaluation = make_evaluation()
    found = []
    for name, right in (("dense", first), ("other", second)):
        answers = {"entry": name, "top1_correct": len(right), "correct": tuple(i in right for i in range(263))}
        found.append(EntryEvaluation.model_validate(evaluation.entries[0].model_dump() | answers))
    return evaluation.model_copy(update={"entries": tuple(found)})


def test_mcnemar_counts_the_images_that_one_alone_answers_right():
    found = accuracy_figures(compared(range(200), range(10, 203)), "other")
    assert (found.only_dense_right, found.only_this_right) == (10, 3)
    assert found.mcnemar_p.value == pytest.approx(scipy.stats.binomtest(3, 13, 0.5).pvalue)
    dense = accuracy_figures(compared(range(200), range(10, 203)), "dense")
    assert (dense.only_dense_right, dense.only_this_right, dense.mcnemar_p.value) == (0, 0, 1.0)


def test_mcnemar_says_why_it_cannot_be_given():
    unlabelled = accuracy_figures(make_evaluation(top1_correct=None, top5_correct=None), "dense")
    assert unlabelled.mcnemar_p.reason == "the images have no labels"
    older = accuracy_figures(make_evaluation(), "dense")
    assert "is not stored: evaluate again" in older.mcnemar_p.reason
    assert older.only_dense_right is None


def test_answers_that_are_not_as_many_right_as_counted_are_refused():
    fields = make_evaluation().entries[0].model_dump()
    with pytest.raises(ValueError, match="2 answers are correct, top1_correct says 81"):
        EntryEvaluation.model_validate(fields | {"correct": (True, True, False)})
