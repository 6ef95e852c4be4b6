"""Pages for people: the report of a result, and the demo's picture, each one file by itself."""
