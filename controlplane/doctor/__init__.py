"""Looks at a deployment as somebody who is new to it would have to, and says what is wrong and what to do about it.

It reads, asks, and tries what needs trying (one TXT record is written and taken away again). It changes nothing else.
"""
