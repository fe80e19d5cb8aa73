"""SageMaker endpoints: packed, created, waited for, spoken to, and deleted again whatever happens."""
