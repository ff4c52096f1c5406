"""The options of each command, one module each.

Importing them takes milliseconds, so help, completion and errors of usage do not wait for torch. The module of the same
name in `codec.commands` runs the command.
"""
