"""One module per condition of an instance: how it is seen, brought about, and taken away."""
