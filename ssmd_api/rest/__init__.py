"""REST: one module a group of routes, each with a tuple `ROUTES`."""
