"""The control protocol from the outside: what the command line uses, and any other program may."""
