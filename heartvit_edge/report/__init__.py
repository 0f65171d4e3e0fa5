"""Tables, plots and one self-contained HTML page from finished runs."""
