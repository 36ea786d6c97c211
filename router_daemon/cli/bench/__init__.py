"""`router-daemon bench`: load against a running daemon, and what came of it.

The modules:
plan      PURE. what is to be done, and what is refused as nonsense
samples   PURE. latencies, their percentiles and histogram
load      clients in one process: closed and open loops
echo      built-in backends in one process
workers   the processes: started together, asked how they do, ended
report    PURE. the outcome as text and as data
progress  a bar on a terminal
command   the command line
"""
