"""Settings: ``production`` for real machines, ``local`` for ``./roost up``, ``test`` for the tests."""
