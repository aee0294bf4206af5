"""Nodes, which instance lives on which, and the edge's routes."""
