"""An instance as files that need neither Roost nor its engine: XEP-0227, and elements of our own where it ends.

Writing, reading (also what others wrote), checking and comparing, all streamed; ``docs/contracts/portable.md`` has the
format. Pure: who asks engines, keeps repositories or decides when is elsewhere.
"""
