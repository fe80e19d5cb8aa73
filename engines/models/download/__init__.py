"""Downloads of model folders, and what S3 needs: s5cmd, the region, credentials kept out of every message."""
