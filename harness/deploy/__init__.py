"""Deployment of a stored recommendation to a SageMaker endpoint that is measured and deleted."""
