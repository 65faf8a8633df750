"""Searching a folder: the state of a folder's index, its updates, the search, and what people and programs see of it.

`messages` and `places` import the standard library only, so that a client of the background process starts at once.
"""
