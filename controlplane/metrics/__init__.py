"""What Prometheus reads: facts that the database knows, counted by it, and what each process measured of itself.

``facts`` asks PostgreSQL, ``instruments`` takes down what ``controlplane.observing`` hears, ``shared`` brings together
what all processes of this machine wrote, ``views`` answers. Every label is from a small set, but a tenant's key.
"""
