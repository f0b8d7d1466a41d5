PR_SET_CHILD_SUBREAPER: int
PR_SET_DUMPABLE: int
PR_SET_NAME: int
PR_SET_PDEATHSIG: int

def prctl(option: int, arg: int | str = ..., arg2: int = ...) -> int: ...
