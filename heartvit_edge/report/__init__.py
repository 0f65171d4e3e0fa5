"""Measurements and evaluations as one self-contained page, a Markdown table and a CSV file."""
