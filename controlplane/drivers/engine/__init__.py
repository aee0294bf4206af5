"""XMPP engines: rendering (pure) and the control channel (milliseconds), one package per engine."""
