"""Programs of their own that the daemon runs for what it must not load or wait for itself. They import the model and
what of the client reads logs, and nothing imports them."""
