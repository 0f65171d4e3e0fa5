"""Costs, and the plan of least predicted loss under a budget. No torch."""
