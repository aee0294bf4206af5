"""Probing, incidents and healing: what is watched, how it is judged, and how a broken link comes back."""
