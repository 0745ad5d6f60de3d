"""`trainwire watch`: what runs are doing, as they do it, in bounded memory.

`view` holds what is known of one rank and knows neither sockets nor terminals, `reader` keeps it up to date, and `app`
and `plain` show it.
"""
