"""From raw records to numbers with intervals, and reasons to distrust them."""
