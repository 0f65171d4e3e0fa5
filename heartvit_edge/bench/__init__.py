"""Measuring engines: timing windows, sessions, statistics and accuracy."""
