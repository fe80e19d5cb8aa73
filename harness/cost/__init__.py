"""The cost of serving: prices, and a search's budget for rented endpoints."""
