"""`router-daemon top`: what the running daemon does, second by second, in a terminal.

The modules:

reading   what the admin room says at one moment
figures   the last moments: rates, and percentiles of what came between
cells     columns, cells, sorting and filtering of any of the tables
views     PURE. the tables: backends, capabilities, routes, waiting, the ring's links and daemons
status    PURE. the lines above them
reader    asks again and again, in a thread
app, grid, screens   the terminal, by textual (extra `top`): nothing else imports it
command   the command line, and `--once`, which prints one table
"""
