"""What measuring adds to an inference, and whether its percentiles and their intervals are true.

    python -m benchmarks.bench_overhead --out overhead.json --check

An ONNX graph of about five milliseconds runs on ONNX Runtime alone and through our runner and loop, call by call in
turn, so that whatever else the machine does falls on both. A second timer stands around the same calls. The interval of
the 99th percentile is drawn a thousand times from distributions whose percentile is known.
"""

from __future__ import annotations

import math
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.claims import Claim, arguments, finish
from heartvit_edge.bench.figures import MIN_SAMPLES
from heartvit_edge.bench.session import make_inputs
from heartvit_edge.bench.statistics import half_width, percentile
from heartvit_edge.bench.window import measure_window, warm_up
from heartvit_edge.engines.fingerprint import detect_machine
from heartvit_edge.engines.onnxruntime_session import CPU, open_session
from heartvit_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner
from heartvit_edge.spec.engine import BatchRange, EngineManifest
from heartvit_edge.spec.files import sha256_file
from heartvit_edge.spec.pack import TensorInfo

IMG_SIZE = 224
NUM_RUNS = 1000
MIN_ALONE = 200
"""Fewest pairs of calls without a preemption that are counted alone."""

SAMPLERS: dict[str, tuple[Callable[[np.random.Generator, int], NDArray[np.float64]], float]] = {
    "exponential": (lambda random, count: random.exponential(size=count), -math.log(0.01)),
    "log-normal": (lambda random, count: random.lognormal(0.0, 0.1, count), math.exp(0.1 * 2.3263478740408408)),
}
"""Draws of a distribution, and its true 99th percentile."""


def write_engine(folder: Path, channels: int) -> EngineManifest:
    """Write an engine of one convolution, as wide as told, and a classifier."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    weights: dict[str, NDArray[np.float32]] = {
        "kernel": random.standard_normal((channels, 3, 7, 7), dtype=np.float32),
        "classes": random.standard_normal((channels, 10), dtype=np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["images", "kernel"], ["features"], kernel_shape=[7, 7], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["features"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "classes"], ["logits"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["B", 3, IMG_SIZE, IMG_SIZE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", 10])
    stored = [numpy_helper.from_array(values, name) for name, values in weights.items()]
    graph = helper.make_graph(nodes, "overhead", [images], [logits], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "engine.onnx")
    return EngineManifest(
        entry="overhead",
        backend="onnxruntime",
        precision="fp32",
        file="engine.onnx",
        sha256=sha256_file(folder / "engine.onnx"),
        onnx_sha256="0" * 64,
        inputs=(TensorInfo(name="images", dtype="float32", shape=(None, 3, IMG_SIZE, IMG_SIZE)),),
        outputs=(TensorInfo(name="logits", dtype="float32", shape=(None, 10)),),
        batch=BatchRange(),
        machine=detect_machine(),
        options=(("provider", CPU), ("intra_op_num_threads", "1")),
        build_s=0.0,
        tool_version="0",
    )


def open_bare(manifest: EngineManifest, folder: Path) -> Any:  # noqa: ANN401 - onnxruntime has no types
    """Return a plain session on the same engine."""
    return open_session(folder / manifest.file, CPU, 1, optimise=False)


def overhead(manifest: EngineManifest, folder: Path, seconds: float) -> tuple[list[Claim], dict[str, object]]:
    """Run a bare session and our runner in turn, and return what ours adds."""
    inputs = make_inputs(1, IMG_SIZE, np.random.default_rng(0))
    clock = time.perf_counter
    with OnnxRuntimeRunner(manifest, folder) as runner:
        bare = runner._session  # two sessions of one graph differ by where their weights came to lie
        warm_up(runner.infer, inputs, 3.0)
        pairs: list[tuple[float, float]] = []
        preemptions = [_preemptions()]
        end = clock() + seconds
        while clock() < end:
            # The one that comes second finds caches warm: they change places, and never see the same batch.
            batch, other = inputs[len(pairs) % 4], inputs[(len(pairs) + 2) % 4]
            first = clock()
            if len(pairs) % 2:
                bare.run(["logits"], {"images": batch})
                second = clock()
                runner.infer(other)
                pairs.append((second - first, clock() - second))
            else:
                runner.infer(batch)
                second = clock()
                bare.run(["logits"], {"images": other})
                pairs.append((clock() - second, second - first))
            preemptions.append(_preemptions())
        outer: list[float] = []

        def timed(batch: NDArray[np.float32]) -> object:
            """Stand around the runner with a timer of another clock."""
            start = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
            answer = runner.infer(batch)
            outer.append((time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW) - start) / 1e6)
            return answer

        trial = measure_window(timed, inputs, seconds, clock)
    times, alone = np.array(pairs) * 1e6, np.diff(preemptions) == 0
    # A call that something else delays says nothing of the runner: where the machine is busy, pairs during which
    # nothing else ran count alone, and the median of their differences leaves out what no counter sees.
    counted = alone if alone.sum() >= MIN_ALONE else np.ones_like(alone)
    more = times[:, 1] - times[:, 0]
    orders = [more[parity::2][counted[parity::2]] for parity in (0, 1)]
    groups = [(float(np.median(a)) + float(np.median(b))) / 2 for a, b in zip(*map(_tenths, orders), strict=True)]
    added, half = sum(groups) / len(groups), half_width(groups) or 0.0
    count = len(trial.latency_ms)
    loop = (1e6 * (trial.end_s - trial.start_s) - 1000 * sum(trial.latency_ms)) / count
    call = float(np.median(times[counted, 0]))
    total = added + loop
    theirs, ours = np.array(outer[-count:]), np.array(trial.latency_ms)
    claims = [
        Claim("runner and loop over a bare call, µs", total, total - half, total + half, at_most=30.0),
        Claim("the same of a bare call, %", 100 * total / call, at_most=1.0),
    ]
    for share, most in ((0.5, 1.0), (0.99, 2.0)):
        error = 100 * (percentile(ours, share)[0] / percentile(theirs, share)[0] - 1)
        claims.append(Claim(f"p{100 * share:g} against another timer, % off", abs(error), at_most=most))
    details = {"bare_call_us": call, "runner_us": added, "loop_us": loop, "calls": [len(pairs), count]}
    return claims, details | {"pairs_alone": int(alone.sum()), "pairs_counted": int(counted.sum())}


def _tenths(values: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Return the values in ten stretches of the run."""
    return np.array_split(values, 10)


def _preemptions() -> int:
    """Return how often something else was given this process's processor before it gave it up."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def coverage() -> list[Claim]:
    """Return how often the interval of the 99th percentile covers the true one, in percent of NUM_RUNS runs."""
    claims = []
    for name, (draw, truth) in SAMPLERS.items():
        for count in (MIN_SAMPLES[0.99], 2000, 10_000):
            random, hits = np.random.default_rng(0), 0
            for _ in range(NUM_RUNS):
                _, low, high = percentile(draw(random, count), 0.99)
                hits += low is not None and high is not None and low <= truth <= high
            share = 100 * hits / NUM_RUNS
            claims.append(Claim(f"p99 interval covers, {name}, {count} samples, %", share, at_least=93.0, at_most=97.0))
    return claims


def main() -> None:
    """Measure, and print the figures."""
    parser = arguments(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each of the two timed parts")
    parser.add_argument("--call-ms", type=float, default=5.0, help="aim at a bare call of this length")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        probe = write_engine(folder, 64)
        inputs = make_inputs(1, IMG_SIZE, np.random.default_rng(0))
        bare = open_bare(probe, folder)
        times = []
        for _ in range(30):
            start = time.perf_counter()
            bare.run(["logits"], {"images": inputs[0]})
            times.append(time.perf_counter() - start)
        fast = float(np.quantile(times, 0.1))  # of a busy machine too
        channels = max(8, round(64 * args.call_ms / (1000 * fast) / 8) * 8)
        claims, details = overhead(write_engine(folder, channels), folder, args.seconds)
    finish([*claims, *coverage()], details | {"channels": channels}, args)


if __name__ == "__main__":
    main()
