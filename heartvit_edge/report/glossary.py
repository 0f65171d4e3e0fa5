"""What each word of the report means."""

from __future__ import annotations

WORDS = {
    "Plan": "What each transformer block keeps: its attention heads and MLP units, and how many tokens enter it.",
    "Budget": "An upper limit that a plan satisfies: macs-0.7 allows 70 % of the dense model's MACs, params-0.7 of its "
    "weights; latency-ms, energy-mj and loss-nats stand in their units. A plus sign joins budgets that hold together.",
    "Binds": "A budget binds where a better plan would be found without it.",
    "Entry": "One model of the pack: dense, which keeps everything, or the plan of one budget or of several.",
    "MAC": "One multiply-accumulate. Counted in closed form over one image's forward, attention and gates included.",
    "Site": "A block before which tokens are dropped. Class, distillation and register tokens are never dropped.",
    "Score": "What removing one token or head is predicted to cost, in nats where the scorer predicts a loss.",
    "Predicted loss": "The mean KL that the plan expects: from scores alone, or measured on the images that it was "
    "made on, which flatter it a little. After ± stands one standard error over images.",
    "Held-out images": "Images on which no choice was made: neither scores nor plans are made from them.",
    "Tokens chosen by": "What picked the tokens that stay while a plan was measured: the gate that its graph carries, "
    "or the scores taken again at each site, which need derivatives and cannot run in an engine.",
    "One more percent": "Predicted loss that a plan with one more percent of the dense model's MACs would save, as a "
    "mean over the next five.",
    "Device table": "What one block costs on a device by its tokens and heads, from bench --profile-table. "
    "Extrapolated: a block lies outside of what was measured.",
    "Weights": "Numbers in the matrix products, which a forward reads at least once; tokens have none.",
    "MLP unit": "One hidden channel of a block's MLP. Units go in groups of neighbours.",
    "KL": "KL(dense || pruned) between class probabilities, in nats, averaged over images: 0 means identical answers.",
    "Agreement": "Share of images to which the pruned and the dense engine give the same class. Needs no labels.",
    "Top-1": "Share of images whose label is the engine's largest logit.",
    "McNemar": "Exact two-sided test of top-1 against the dense engine, by the images that one of the two alone "
    "answers right: p is how likely they are to part so unevenly by chance. A large p is no proof of equality.",
    "Baseline": "The same plan, and so equal MACs, carried out in a simpler way: tokens dropped at random or by the "
    "class token's attention, or merged into the likest.",
    "p50, p90, p99": "The time that 50, 90 or 99 of 100 inferences do not exceed, host array in to host array out.",
    "Speed-up": "Mean latency of the dense engine over this engine's, same run and batch size; above 1 is faster.",
    "Interval": "95 % confidence: Wilson for shares, order statistics for percentiles, block bootstrap for speed-up, "
    "Student for means, 1.96 standard errors for a plan's loss. Between runs: Welch over trials. Energy adds half a "
    "step of the sensor.",
    "Energy": "Gross: total power integrated over exactly the measured windows; what an idle board draws is included.",
    "Net energy": "Energy without what the idle machine would have used in the same time, by the mean power of the "
    "idle window, in which nothing ran and no engine was loaded.",
    "Total": "The rails that are added up, by the rule under the power trace. Rails keep the board's labels.",
    "Energy-delay product": "Energy of one inference times its mean latency: small where an engine is fast and "
    "thrifty.",
    "Window, trial": "A stretch of steady work, all engines in turn, so that drift falls on each alike. Power counts "
    "from the first call's begin to the last one's end.",
    "Power mode": "What nvpmodel sets on a Jetson: which cores run and how high clocks may go.",
    "Floor": "The least time that a machine allows: the larger of reading all weights once and of carrying out the "
    "multiply-accumulates, at its data sheet's best. Dropping tokens lowers the second alone.",
    "Waiting": "How long a request waited for its call, where requests come at random times; latencies contain it.",
    "Slowed down": "A limit was in force in a window: a rail over its current, heat, or a locked clock that fell.",
    "On the front": "No other point of the plot costs no more and is no worse.",
}
