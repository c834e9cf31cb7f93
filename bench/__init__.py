"""Measurements: tables to read, nothing is asserted."""
