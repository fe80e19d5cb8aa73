"""What serving costs: prices, and a search's budget for rented endpoints."""
