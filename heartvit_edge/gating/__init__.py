"""Which tokens stay at run time: forward-only gates, reduction, and the gated model."""
