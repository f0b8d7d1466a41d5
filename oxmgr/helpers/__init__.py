"""Programs of their own that the daemon runs for what it must not load or wait for itself. They import no other part
of oxmgr, and none imports them."""
