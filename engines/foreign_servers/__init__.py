"""Model servers of other projects, started and addressed like our own."""
