"""The archive and the datasets, copied to an object store and proved there."""
