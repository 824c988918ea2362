"""The archive format: paths, gzip members, manifests."""
