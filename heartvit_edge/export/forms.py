"""From entries to graphs in each form, and what the manifest says of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from heartvit_edge.export.any_count import AnyCountViT, Counts, check_counts, sweep
from heartvit_edge.export.assembly import Assembly
from heartvit_edge.export.by_input import answers, check_loss, divide, in_pytorch, stem_source, tail_source, whole
from heartvit_edge.export.entries import Entry
from heartvit_edge.export.fixed_batch import with_batch
from heartvit_edge.export.graph import graph_inputs, graph_outputs, whole_model
from heartvit_edge.export.making import Making, pack_entry
from heartvit_edge.export.parity import Answer, Graph, check_parity
from heartvit_edge.gating.reduce import num_listed, reduction_at
from heartvit_edge.gating.routed import unit_of
from heartvit_edge.spec.files import sha256_file
from heartvit_edge.spec.pack import Form, PackEntry, num_keep_name
from heartvit_edge.spec.route import tails_of
from heartvit_edge.spec.routing import Routing
from heartvit_edge.spec.routing import Tail as RoutedTail

SHARED = "adaptive-shape"
"""Name of the first graph that entries share, without its ending."""


def sharing(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Return the entries by the graph that carries them out, each graph's in order.

    Entries share one where counts are inputs and nothing but these differs: model, gate, reduction, sites, heads and
    MLP units.
    """
    groups: dict[Any, list[Entry]] = {}
    for entry in entries:
        key: Any = entry.name
        if entry.form == "adaptive-shape":
            plan = entry.plan
            kept = tuple((block.kept_heads, block.kept_units) for block in plan.blocks)
            gate = id(entry.gate) if isinstance(entry.gate, nn.Module) else entry.gate
            key = (id(entry.module), gate, entry.reduction, tuple(plan.sites), kept, plan.unit_groups)
        groups.setdefault(key, []).append(entry)
    return list(groups.values())


def _write_static(making: Making, entries: Sequence[Entry]) -> Iterator[PackEntry]:
    """Write and check the graph of one entry, whose counts are constants, in each precision."""
    (entry,) = entries
    model = entry.model()
    path = making.folder / f"{entry.name}.onnx"
    making.store(whole_model(model, making.dense.shape), path)
    parity = check_parity(model, Graph(path), making.batches, entry.name, merges=entry.merges)
    others = making.write_others(Assembly((path,)), {entry.name: {}}, entry.name)[entry.name]
    outputs = graph_outputs(making.dense.shape, model.num_listed)
    inputs = graph_inputs(making.dense.shape)
    yield pack_entry(making, entry, model, path, parity, inputs, outputs, others=others)


def _write_any_count(making: Making, entries: Sequence[Entry]) -> Iterator[PackEntry]:
    """Write and check the one graph of entries that differ in their counts alone."""
    first, shape = entries[0], making.dense.shape
    asked = [_counts(entry) for entry in entries]
    sites = tuple(first.plan.sites)
    reductions = [reduction_at(first.reduction, site, shape.depth) for site in sites]
    for counts in asked:
        check_counts(counts, sites, reductions, shape.num_patches)
    gated = first.model()
    model, merges = AnyCountViT(gated), first.merges
    path = _new_name(making.folder)
    making.store(whole_model(model, shape), path)
    tried = sweep(asked, reductions, shape.num_patches)
    graph = Graph(path)
    beside = {_called(path, sites, counts): counts for counts in tried if counts not in asked}
    for name, counts in beside.items():
        check_parity(_fed(model, counts), graph.with_feeds(_feeds(sites, counts)), making.some, name, merges=merges)
    proven = {site: (min(found), max(found)) for site, found in zip(sites, zip(*tried, strict=True), strict=True)}
    parities = [
        check_parity(
            _fed(model, counts), graph.with_feeds(_feeds(sites, counts)), making.batches, entry.name, merges=merges
        )
        for entry, counts in zip(entries, asked, strict=True)
    ]
    fed = {entry.name: _as_inputs(sites, counts) for entry, counts in zip(entries, asked, strict=True)}
    swept = {name: _as_inputs(sites, counts) for name, counts in beside.items()}
    others = making.write_others(Assembly((path,)), fed, path.stem, swept)
    for entry, counts, parity in zip(entries, asked, parities, strict=True):
        listed = {site: num_listed(entry.reduction, count) for site, count in zip(sites, counts, strict=True)}
        yield pack_entry(
            making,
            entry,
            gated,
            path,
            parity,
            graph_inputs(shape, sites),
            graph_outputs(shape, listed),
            num_keep=dict(zip(sites, counts, strict=True)),
            num_keep_range=proven,
            others=others[entry.name],
        )


def _write_by_input(making: Making, entries: Sequence[Entry]) -> Iterator[PackEntry]:
    """Write and check the stem and the tails of one entry, and measure what dividing the images loses."""
    (entry,) = entries
    images, merges = making.routing, entry.merges
    if images is None:
        raise ValueError("what an image needs is chosen on images, found none")
    model = entry.model()
    routed = divide(entry, model, images)
    paths = [making.folder / f"{entry.name}.stem.onnx"]
    paths += [making.folder / f"{entry.name}.tail-{bucket}.onnx" for bucket in routed.buckets]
    sources = [stem_source(routed), *(tail_source(routed, tail) for tail in routed.tails)]
    for path, source in zip(paths, sources, strict=True):
        making.store(source, path)
    runs = [Graph(path).run for path in paths]
    for number, bucket in enumerate(routed.buckets):  # each tail with images that would have taken another, too
        listed = sources[1 + number].outputs
        alone = in_pytorch(routed.stem, routed.stem_outputs), [in_pytorch(routed.tails[number], listed)]
        check_parity(
            _as_answer(answers(*alone, [bucket], listed)),
            answers(runs[0], [runs[1 + number]], [bucket], listed),
            making.some,
            paths[1 + number].stem,
            merges=merges,
        )
    graph = answers(runs[0], runs[1:], routed.buckets, routed.outputs)
    parity = check_parity(_as_answer(whole(routed)), graph, making.batches, entry.name, merges=merges)
    assembly = Assembly(tuple(paths), routed.buckets, routed.outputs)
    others = making.write_others(assembly, {entry.name: {}}, entry.name)[entry.name]
    needed, counts = np.unique(routed.chosen.needed, return_counts=True)
    places = tails_of(routed.chosen.needed.astype(np.int32), routed.buckets)
    tails = tuple(
        RoutedTail(
            num_keep=tail.num_keep,
            onnx=path.name,
            onnx_sha256=sha256_file(path),
            outputs=with_batch(source.outputs, making.batch),
            macs=routed.macs(tail.num_keep),
            share=float((places == number).mean()),
        )
        for number, (tail, path, source) in enumerate(zip(routed.tails, paths[1:], sources[1:], strict=True))
    )
    routing = Routing(
        outputs=with_batch(routed.stem_outputs, making.batch),
        unit=unit_of(model),
        threshold=routed.chosen.threshold,
        images=images.chosen_on,
        counts=tuple(zip(needed.tolist(), counts.tolist(), strict=True)),
        tails=tails,
        mean_macs=round(sum(tail.share * tail.macs for tail in tails)),
        check=check_loss(routed, making.dense.module, images),
    )
    inputs = graph_inputs(making.dense.shape)
    yield pack_entry(making, entry, model, paths[0], parity, inputs, routed.outputs, routing=routing, others=others)


WRITERS: Mapping[Form, Callable[[Making, Sequence[Entry]], Iterator[PackEntry]]] = {
    "static": _write_static,
    "adaptive-shape": _write_any_count,
    "adaptive-input": _write_by_input,
}
"""Each writes the graphs of entries that share them, and yields what the manifest says of each entry."""


def _counts(entry: Entry) -> Counts:
    prefix = entry.plan.shape.num_prefix_tokens
    return tuple(count - prefix for count in entry.plan.sites.values())


def _feeds(sites: Sequence[int], counts: Counts) -> dict[str, int]:
    return {num_keep_name(site): count for site, count in zip(sites, counts, strict=True)}


def _as_inputs(sites: Sequence[int], counts: Counts) -> dict[str, NDArray[np.int64]]:
    """Return what a graph is fed beside images."""
    return {name: np.array(count, dtype=np.int64) for name, count in _feeds(sites, counts).items()}


def _called(path: Path, sites: Sequence[int], counts: Counts) -> str:
    """Return what messages call a graph with counts that no entry has."""
    return f"{path.stem} with {', '.join(f'{name} {count}' for name, count in _feeds(sites, counts).items())}"


def _fed(model: AnyCountViT, counts: Counts) -> Answer:
    tensors = [torch.tensor(count) for count in counts]

    def answer(images: Tensor) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = model(images, *tensors)
        return found

    return answer


def _as_answer(answer: Callable[[NDArray[np.float32]], list[NDArray[Any]]]) -> Answer:
    return lambda images: [torch.from_numpy(values) for values in answer(images.numpy())]


def _new_name(folder: Path) -> Path:
    """Return a place for one more shared graph."""
    names = (f"{SHARED}{'' if number == 1 else f'-{number}'}.onnx" for number in count(1))
    return next(folder / name for name in names if not (folder / name).exists())
