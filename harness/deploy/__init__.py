"""From a stored recommendation to a SageMaker endpoint that was measured, and what things cost."""
