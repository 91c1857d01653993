"""Prices: usage in, microcredits out. Pure: no I/O but reading the book, no clock, no floats."""
