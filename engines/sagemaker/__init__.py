"""SageMaker endpoints: planned, packed, created, measured through a proxy, and deleted again whatever happens."""
