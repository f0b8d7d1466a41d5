"""Programs of their own that the daemon runs for what it must not load or wait for itself. Of oxmgr they import the
model alone, and none imports them."""
