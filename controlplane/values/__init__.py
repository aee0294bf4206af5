"""Frozen values that every room may name: no I/O, no clock, no Django."""
