"""Files for download: what there is of them, signed URLs, and serving them from the data folder."""
