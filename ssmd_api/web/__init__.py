"""Pages for people: files that a browser gets as they are, without a build step and without another host."""
