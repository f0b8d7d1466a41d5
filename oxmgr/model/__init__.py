"""The ground floor: what the other packages talk about. No I/O here, and no import from another oxmgr package."""
