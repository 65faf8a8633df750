"""A background process of the user that keeps models and indexes of folders open, so that a search starts at once.

`client.ask` sends a request over a Unix socket and starts the process if there is none. What the client imports is the
standard library only. Whatever goes wrong, the caller gets None and does the work in its own process: the background
process makes an answer fast, and is never needed for one.
"""
