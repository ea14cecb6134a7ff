"""Images: small data sets in memory, and folders and shards that are read by index."""
