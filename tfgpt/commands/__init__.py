"""One module for each command of the command line: `add_arguments(parser)` and `run(arguments)`.

A module imports what is heavy inside `run`, so that `tfgpt --help` loads nothing.
"""
