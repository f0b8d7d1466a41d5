"""The command line: a module a command or family, imported when that command runs.

What is imported on the way to `oxmgr list` is counted: Python's own start is two thirds of its budget (30 ms).
"""
