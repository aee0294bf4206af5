"""The watcher: listens to what every node's kernel sees of its tenants' federation links and of its own addresses.

``service`` keeps a question open to each node, ``reports`` does what news ask for. Nothing is closed here: a suspect
link is handed to its own pass, which asks the engine first.
"""
