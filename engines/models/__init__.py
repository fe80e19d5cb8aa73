"""Model folders: finding, downloading, checking, tokenizing, converting and caching them."""
