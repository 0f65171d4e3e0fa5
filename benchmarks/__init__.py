"""Programs that print the figures that the README claims."""
