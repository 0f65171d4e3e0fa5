"""What each word of the report means."""

from __future__ import annotations

WORDS = {
    "Plan": "What each transformer block keeps: its attention heads, and how many tokens enter it.",
    "Budget": "The upper limit that a plan satisfies; macs-0.7 allows 70 % of the dense model's MACs.",
    "Entry": "One model of the pack: dense, which keeps everything, or the plan of one budget.",
    "MAC": "One multiply-accumulate. Counted in closed form over one image's forward, attention and gates included.",
    "Site": "A block before which tokens are dropped. Class, distillation and register tokens are never dropped.",
    "Score": "What removing one token or head is predicted to cost, in nats where the scorer predicts a loss.",
    "Predicted loss": "The mean KL that the plan expected from its scores, before anything was run.",
    "KL": "KL(dense || pruned) between class probabilities, in nats, averaged over images: 0 means identical answers.",
    "Agreement": "Share of images to which the pruned and the dense engine give the same class. Needs no labels.",
    "Top-1": "Share of images whose label is the engine's largest logit.",
    "p50, p90, p99": "The time that 50, 90 or 99 of 100 inferences do not exceed, host array in to host array out.",
    "Speed-up": "Mean latency of the dense engine over this engine's, same run and batch size; above 1 is faster.",
    "Interval": "95 % confidence: Wilson for shares, order statistics for percentiles, block bootstrap for speed-up, "
    "Student for means.",
    "Energy": "Gross: total power integrated over exactly the measured windows; what an idle board draws is included.",
    "On the front": "No other point of the plot costs no more and is no worse.",
}
