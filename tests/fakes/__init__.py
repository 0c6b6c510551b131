"""A server on loopback for each API, as strict as its reference says, with a switch for every guess about it."""
