"""Runs in a directory: what a configuration asks for, done so that it can be stopped and gone on with."""
