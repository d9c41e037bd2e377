"""The command line, one file a group of commands; each offers `add_to(app)`. Rooms do the work."""
