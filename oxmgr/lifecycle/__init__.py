"""What happens to an instance, as pure functions: no clock, no I/O, no globals."""
