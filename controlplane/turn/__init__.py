"""TURN secrets: one per instance, known to the TURN server and announced by XEP-0215."""
