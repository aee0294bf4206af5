"""Roost's control plane. API, portal and clocks write what should be; reconcilers alone change the world."""
