"""Organisations, people, plans, domains, instances: what should be. Never talks to the outside."""
