"""Backups: what is saved and when, how it is restored, and the proof that it can be."""
