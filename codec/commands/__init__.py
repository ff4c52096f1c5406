"""The commands of the program `codec`, one module each. `add` declares the options of a command."""
