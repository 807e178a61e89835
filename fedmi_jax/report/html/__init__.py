"""A report as one HTML file that needs nothing else: no server, no other file, no address outside it."""
