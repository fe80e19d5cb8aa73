"""Model folders: finding, downloading, converting and making them."""
