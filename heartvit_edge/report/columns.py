"""The columns of the summary table: their order, headings, units and meanings."""

from __future__ import annotations

from dataclasses import dataclass

from heartvit_edge.report.formats import SHARE, TIMES


@dataclass(frozen=True)
class Column:
    """One figure of a row.

    Attributes:
        key: Name of the figure in a row, and of its CSV column; it ends in the unit where it has one.
        group: Heading over neighbouring columns.
        heading: Short heading.
        unit: Unit of the shown number; a share is shown in percent.
        meaning: One sentence for whoever asks what the column says.
        on_page: Whether the page and the Markdown table show it; the CSV file has every column.
        against_dense: Whether the figure compares with the dense engine, whose own row is then the reference.
    """

    key: str
    group: str
    heading: str
    unit: str
    meaning: str
    on_page: bool = True
    against_dense: bool = False


COLUMNS = (
    Column(
        "macs_fraction",
        "Plan",
        "MACs",
        SHARE,
        "Multiply-accumulates of one image, a learned gate's among them, as a share of the dense model's",
    ),
    Column(
        "gmacs",
        "Plan",
        "GMACs",
        "GMACs",
        "Multiply-accumulates of one image, a learned gate's among them",
        on_page=False,
    ),
    Column(
        "params_fraction",
        "Plan",
        "Weights",
        SHARE,
        "Weights of the matrix products, as a share of the dense model's",
        on_page=False,
    ),
    Column("tokens_share", "Plan", "Tokens", SHARE, "Tokens over all blocks, as a share of the dense model's"),
    Column("heads_share", "Plan", "Heads", SHARE, "Attention heads over all blocks, as a share of the dense model's"),
    Column(
        "predicted_loss_nats",
        "Plan",
        "Predicted loss",
        "nats",
        "Mean KL that the plan expects, from scores alone or measured on the images it was made on",
    ),
    Column(
        "held_out_nats",
        "Plan",
        "Held-out loss",
        "nats",
        "Mean KL that the plan measured on images that no choice was made on",
        on_page=False,
    ),
    Column(
        "held_out_agreement",
        "Plan",
        "Held-out agreement",
        SHARE,
        "Images of these that are given the same class as by the dense model",
        on_page=False,
    ),
    Column("table_latency_ms", "Plan", "Latency by table", "ms", "Latency by the plan's device table", on_page=False),
    Column("table_energy_mj", "Plan", "Energy by table", "mJ", "Energy by the plan's device table", on_page=False),
    Column(
        "nats_per_percent",
        "Plan",
        "One percent",
        "nats",
        "Predicted loss that one more percent of the dense MACs would save",
        on_page=False,
    ),
    Column(
        "kl_nats",
        "Answers",
        "Mean KL",
        "nats",
        "Mean KL(dense || this) over the evaluated images",
        against_dense=True,
    ),
    Column(
        "agreement",
        "Answers",
        "Agreement",
        SHARE,
        "Images given the same class as by the dense engine",
        against_dense=True,
    ),
    Column("top1", "Answers", "Top-1", SHARE, "Images whose label is the largest logit"),
    Column(
        "mcnemar_p",
        "Answers",
        "McNemar",
        "p",
        "Exact test that top-1 is the dense engine's, by the images that one of the two alone answers right",
        against_dense=True,
    ),
    Column("top5", "Answers", "Top-5", SHARE, "Images whose label is among the five largest logits", on_page=False),
    Column("p50_ms", "Latency", "p50", "ms", "Median time of one inference"),
    Column("p90_ms", "Latency", "p90", "ms", "Nine of ten inferences take no longer"),
    Column("p99_ms", "Latency", "p99", "ms", "99 of 100 inferences take no longer"),
    Column("mean_ms", "Latency", "Mean", "ms", "Mean time of one inference", on_page=False),
    Column(
        "speed_up",
        "Latency",
        "Speed-up",
        TIMES,
        "Mean latency of the dense engine over this one's; above 1 is faster",
        against_dense=True,
    ),
    Column("images_per_s", "Latency", "Throughput", "img/s", "Images over the time of the measured windows"),
    Column(
        "host_overhead_us",
        "Latency",
        "Loop",
        "µs",
        "Time of the measuring loop between two calls, which no latency contains",
        on_page=False,
    ),
    Column(
        "weights_floor_ms",
        "Latency",
        "Weights floor",
        "ms",
        "Time to read the weights once at the machine's memory bandwidth",
        on_page=False,
    ),
    Column(
        "arithmetic_floor_ms",
        "Latency",
        "Arithmetic floor",
        "ms",
        "Time of the multiply-accumulates at the machine's peak",
        on_page=False,
    ),
    Column("waiting_ms", "Latency", "Waiting", "ms", "Mean time that a request waited for its call", on_page=False),
    Column("mj_per_inference", "Energy", "Energy", "mJ/inf", "Gross energy of one inference; idle is not subtracted"),
    Column(
        "net_mj_per_inference",
        "Energy",
        "Net energy",
        "mJ/inf",
        "Energy of one inference without what the idle machine uses in that time",
        on_page=False,
    ),
    Column("inferences_per_j", "Energy", "Per joule", "inf/J", "Inferences for one joule, gross", on_page=False),
    Column(
        "energy_delay_mj_ms",
        "Energy",
        "Energy-delay",
        "mJ·ms",
        "Gross energy of one inference times its mean latency",
        on_page=False,
    ),
    Column(
        "energy_ratio",
        "Energy",
        "Of dense",
        TIMES,
        "Gross energy of one inference over the dense engine's; below 1 is thriftier",
        on_page=False,
        against_dense=True,
    ),
    Column("mj_per_image", "Energy", "Energy", "mJ/img", "Gross energy of one image", on_page=False),
    Column("mean_mw", "Energy", "Mean power", "mW", "Mean power in the measured windows", on_page=False),
    Column("peak_mw", "Energy", "Peak power", "mW", "Largest reading in the measured windows", on_page=False),
    Column("idle_mw", "Energy", "Idle power", "mW", "Mean power in the idle window", on_page=False),
)

PAGE_COLUMNS = tuple(column for column in COLUMNS if column.on_page)
