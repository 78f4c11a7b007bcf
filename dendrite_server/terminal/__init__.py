"""`dendrite tree` and `dendrite search`: what the page shows, in a terminal."""
