"""One module per server of the stack: writes its configuration and says how it is run and asked."""
