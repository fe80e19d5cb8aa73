"""The series behind a report's figures: latency quantiles, the time line of a trial, the server's own numbers."""
