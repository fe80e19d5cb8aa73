"""How well the search finds what is known beforehand, on programmed laws."""
