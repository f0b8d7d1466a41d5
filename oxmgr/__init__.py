"""oxmgr: a Linux-native process supervisor."""

__version__ = "0.1.0"
