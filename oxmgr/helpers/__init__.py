"""Programs of their own that the daemon runs for what it must not load or wait for itself. They import neither its nor
the command line's parts, and nothing imports them."""
